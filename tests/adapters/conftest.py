"""One engine for the tests of the adapters, in this process, and a server on it for each module that asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from moshi_agent import Engine
from tests.personaplex import write_personaplex

if TYPE_CHECKING:
    from tests.adapters.server.server_calls import Running


@pytest.fixture(scope="module")
def four_rows() -> Iterator[Engine]:
    """Four rows of `tiny`. Whoever else is busy on this machine, it takes them all."""
    with Engine.load("tiny", device="cpu", capacity=4, admit_by_time=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def personaplex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Two rows of a small model that takes roles, and the voices NATF0 and NATM1."""
    folder = write_personaplex(tmp_path_factory.mktemp("checkpoints") / "personaplex")
    with Engine.load(str(folder), capacity=2, admit_by_time=False, shared=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(four_rows: Engine) -> Iterator[Running]:
    """A server as it is by default."""
    pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
    pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")
    from tests.adapters.server.server_calls import running

    # The server closes its engine when it ends, and this one is shared: `load` counts.
    engine = Engine.load("tiny", device="cpu", capacity=4, admit_by_time=False)
    with running(engine) as server:
        yield server
