"""How a replica that is to go ends its calls: nobody is taken any more, and the last ones are told."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import ray
from ray._private.worker import global_worker

from moshi_agent_adapters.ray.report import Report, have_room
from moshi_agent_adapters.server.server import Server

_log = logging.getLogger("moshi_agent.ray")
_POLL_S = 0.25
_LOOK_S = 1.0  # as often as replicas report
_SETTLED_S = 3.0  # after which every replica that goes at the same time has said so in a report
LAST_WORDS_S = 10.0  # for calls to say why they end, before Serve ends the process


class Ending:
    """Notices that Serve ends this replica, and drains its server from then on.

    Serve tells user code of its end when all of its own requests are over, or else never: their calls would
    be cut without a close frame. So its flag is read, a private part; where that has changed, calls go on
    until Serve ends them, and a line in the log says so.

    Args:
        server: takes nobody any more, from the beginning of the end on.
        replica: its name.
        reports: gives what all replicas say of themselves.
        report: tells the others of this one: what it said last, it says for ever once it is gone.
    """

    def __init__(
        self,
        server: Server,
        replica: str,
        reports: Callable[[], Awaitable[Sequence[Report]]],
        report: Callable[[], Awaitable[None]],
    ) -> None:
        self._server, self._replica, self._reports, self._report = server, replica, reports, report
        self._until = 0.0

    async def watch(self) -> None:
        """Waits for the beginning of the end, and drains the server."""
        while (is_ending := _is_ending()) is False:  # noqa: ASYNC110 - nothing of Serve's tells when it changes
            await asyncio.sleep(_POLL_S)
        if is_ending is None:
            _log.warning("this version of Ray Serve does not tell when a replica is to go: it cuts calls")
        else:
            self.begin()
            await self._report()
            await self._move()

    async def _move(self) -> None:
        """Gives calls away that can move once others have room for all: else they go on here."""
        await asyncio.sleep(_SETTLED_S)
        while not have_room(  # noqa: ASYNC110 - replicas report, and tell nobody of it
            await self._reports(), self._replica, self._server.addresses.live
        ):
            await asyncio.sleep(_LOOK_S)
        self._server.is_moving.set()

    def begin(self) -> None:
        """Takes nobody any more. May be called again."""
        if not self._server.is_draining:
            self._until = time.monotonic() + self._server.config.drain_s + LAST_WORDS_S / 2
            self._server.drain(self._server.config.drain_s)

    async def wait(self) -> None:
        """Waits until all calls are over, those that Serve does not know of, too."""
        self.begin()
        while self._server.addresses.live and time.monotonic() < self._until:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)


def _is_ending() -> bool | None:
    """Whether Serve ends this replica; None where that cannot be known."""
    actor_id = ray.get_runtime_context().get_actor_id()
    for known_id, actor in global_worker.actors.items():
        if known_id.hex() == actor_id:
            return getattr(getattr(actor, "_replica_impl", None), "_shutting_down", None)
    return None
