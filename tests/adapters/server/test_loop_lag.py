"""The server's own delay is measured: what holds up its event loop is seen in its metrics."""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("starlette", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from prometheus_client import CollectorRegistry

from moshi_agent_adapters.server.loop_lag import LoopLag


@pytest.mark.parametrize("held_s", [0.7, 1.5])
def test_what_holds_up_the_loop_is_measured(held_s: float) -> None:
    registry = CollectorRegistry()

    async def held_up() -> None:
        lag = LoopLag()
        registry.register(lag.histogram)
        measuring = asyncio.create_task(lag.measure())
        await asyncio.sleep(0.25)
        time.sleep(held_s)  # noqa: ASYNC251
        await asyncio.sleep(0.25)
        measuring.cancel()

    asyncio.run(held_up())
    name = "moshi_agent_event_loop_lag_seconds"
    measured, total_s = (registry.get_sample_value(f"{name}_{what}") for what in ("count", "sum"))
    assert measured is not None and total_s is not None
    at_most = registry.get_sample_value(f"{name}_bucket", {"le": "0.32"})
    assert at_most is not None and measured - at_most >= 1
    assert total_s > held_s - 0.15
