"""FastRTC's own server, on an engine with room for two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moshi_agent import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine.load("tiny", capacity=2, shared=False) as engine:
        yield engine


@pytest.fixture
def url(engine: Engine) -> Iterator[str]:
    from tests.adapters.fastrtc.fastrtc_calls import mounted  # FastRTC may not be installed

    with mounted(engine) as url:
        yield url
