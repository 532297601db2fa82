"""Commands on their way to the thread that owns the device."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from moshi_agent.engine.commands import Command, Open
from moshi_agent.engine.event_queue import Outlet
from moshi_agent.engine.snapshot import Snapshot, unpack_snapshot
from moshi_agent.errors import EngineUnhealthy, MoshiAgentError

CLOSED = "the engine is closed"
NOT_STARTED = "the engine has not been started"


@dataclass(frozen=True, slots=True)
class Request:
    """A command, and where its answer goes."""

    command: Command
    reply: Future[Any] | None = None
    outlet: Outlet | None = None  # takes what an opened conversation says
    snapshot: Snapshot | None = None  # the command's, unpacked

    def answer(self, result: object) -> None:
        """Gives the result to who asked. Whoever waits no longer has cancelled the reply."""
        if self.reply is not None:
            with suppress(InvalidStateError):
                self.reply.set_result(result)

    def refuse(self, error: BaseException) -> None:
        """Gives an error instead."""
        if self.reply is not None:
            with suppress(InvalidStateError):
                self.reply.set_exception(error)


class Inbox:
    """Any thread may put, one gets. Whatever is put after `close` is refused.

    Putting takes no lock: a session that the garbage collector finds may say so from anywhere.
    """

    def __init__(self) -> None:
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self._is_closed = False

    def send(self, command: Command) -> None:
        """Hands over a command that needs no answer. One about a conversation that is over is ignored."""
        self._put(Request(command))

    def request(self, command: Command, outlet: Outlet | None = None) -> Future[Any]:
        """Hands over a command and returns its answer to come; `outlet` takes what an opened call says."""
        reply: Future[Any] = Future()
        try:
            # Here and not where it is got: it may be large, and nobody's frames are to wait for it.
            snapshot = _snapshot_of(command)
        except MoshiAgentError as error:
            reply.set_exception(error)
            return reply
        self._put(Request(command, reply, outlet, snapshot))
        return reply

    def _put(self, request: Request) -> None:
        self._requests.put(request)
        if self._is_closed:
            self._refuse_all()

    def get(self, timeout_s: float | None) -> Request | None:
        """Returns the next request; None if there is none within so many seconds. None waits for ever."""
        try:
            return self._requests.get(block=timeout_s != 0, timeout=timeout_s)
        except Empty:
            return None

    def close(self) -> None:
        """Gives nobody anything any more."""
        self._is_closed = True
        self._refuse_all()

    def _refuse_all(self) -> None:
        while (request := self.get(0)) is not None:
            request.refuse(EngineUnhealthy(CLOSED))


def _snapshot_of(command: Command) -> Snapshot | None:
    if not isinstance(command, Open) or command.snapshot is None:
        return None
    return unpack_snapshot(command.snapshot)
