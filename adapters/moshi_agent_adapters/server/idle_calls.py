"""Calls that hold a row of the engine and say nothing.

Nobody is hung up on for being silent: a muted microphone may stay so. But where every row is taken and
somebody new comes, an address that holds several silent calls gives one of them up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from moshi_agent_adapters.networks import network_of

_WAIT_S = 2.0  # for a call that is given up to leave its row


class IdleCall:
    """One call, as far as it matters here."""

    def __init__(self, address: str, now: float) -> None:
        self.address = network_of(address)
        self.heard_at = now  # when its last audio came
        self.given_up = asyncio.Event()  # it is to end
        self.gone = asyncio.Event()  # its row is free


class IdleCalls:
    """The live calls of a server, and which of them make room for others.

    Args:
        idle_s: a call without audio for so long counts as silent.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._calls: set[IdleCall] = set()

    def enter(self, address: str, now: float) -> IdleCall:
        """A call has its row; `leave` has to follow."""
        call = IdleCall(address, now)
        self._calls.add(call)
        return call

    def leave(self, call: IdleCall) -> None:
        """A call has left its row."""
        self._calls.discard(call)
        call.gone.set()

    async def make_room(self, now: float) -> bool:
        """Ends the longest silent call of the address with most of them; False where none has two."""
        silent = [call for call in self._calls if self._is_silent(call, now)]
        ((address, count),) = Counter(call.address for call in silent).most_common(1) or [("", 0)]
        if count < 2:
            return False
        call = min((call for call in silent if call.address == address), key=lambda one: one.heard_at)
        call.given_up.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(call.gone.wait(), _WAIT_S)
        return call.gone.is_set()

    def _is_silent(self, call: IdleCall, now: float) -> bool:
        return now - call.heard_at > self._idle_s and not call.given_up.is_set()
