"""How late the server's event loop is: what holds it up delays every call, and is no client's fault."""

from __future__ import annotations

import asyncio

from prometheus_client import Histogram

_INTERVAL_S = 0.1
_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class LoopLag:
    """Measures how much later than it was due a short sleep ends; `histogram` shows it to Prometheus."""

    def __init__(self) -> None:
        self.histogram = Histogram(
            "moshi_agent_event_loop_lag_seconds",
            "How late the server's event loop comes to what is due",
            buckets=_BOUNDS_S,
            registry=None,
        )

    async def measure(self) -> None:
        """Measures until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _INTERVAL_S
            await asyncio.sleep(_INTERVAL_S)
            self.histogram.observe(max(0.0, loop.time() - due))
