"""A web server that ends gently: the first signal drains, a second one ends at once."""

from __future__ import annotations

import asyncio
import logging
import time
from types import FrameType

import uvicorn

from moshi_agent.plural import counted
from moshi_agent_adapters.server.server import Server

_log = logging.getLogger("moshi_agent.server")
_LAST_WORDS_S = 3.0  # for calls to say why they end
_POLL_S = 0.1


class DrainingServer(uvicorn.Server):
    """Runs an application whose `Server` it drains on SIGTERM and SIGINT.

    While it drains it goes on to listen: whoever comes then is refused, with the reason.
    """

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # pyright: ignore
        """Begins to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # pyright: ignore

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come. May be called in the middle of anything."""
        if self._server.is_draining or self._loop is None or not self._server.addresses.live:
            self.should_exit = True
            return
        seconds = self._server.config.drain_s
        calls = self._server.addresses.live
        _log.warning(
            "shutting down: %s may go on for %g s",
            *(counted(calls, "call"), seconds),
            extra={"calls": calls, "seconds": seconds},
        )
        self._server.drain(seconds)
        self._loop.call_soon_threadsafe(self._begin_to_wait)

    def _begin_to_wait(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait_for_calls())

    async def _wait_for_calls(self) -> None:
        until = time.monotonic() + self._server.config.drain_s + _LAST_WORDS_S
        # Any call may be the last, and this happens once: to look is simpler than to be told.
        while self._server.addresses.live and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        self.should_exit = True
