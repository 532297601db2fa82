"""Whether one address may have one more call: here, and in all processes that serve together."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from moshi_agent_adapters.networks import network_of
from moshi_agent_adapters.server.limits import AddressLimits, TooMany


class AllProcesses(Protocol):
    """Counts the calls of each network in all processes. Says nothing against a call where it cannot tell."""

    async def begin(self, network: str) -> str | None:
        """Counts the beginning of a call that is none yet. Returns why it may not be one, None if it may."""
        ...

    async def enter(self, network: str) -> str | None:
        """Counts a call. Returns as `begin`; otherwise `leave` has to follow."""
        ...

    async def connect(self, network: str, moves: bool) -> str | None:
        """Counts a call that has begun. Returns as `enter`; of one that moves always None."""
        ...

    def leave(self, network: str) -> None:
        """Counts the end of a call."""
        ...


class CallPlaces:
    """The calls of a server, by address. What is counted here goes first, and alone where nobody else serves.

    Only what is connected is counted. A call that has begun and never connects holds no place that could be
    lost; in return many may be on the way in at once, in several processes, where there is room for one. So
    room is asked for when a call begins, which refuses most of them early, and again when it connects, which
    decides.

    Args:
        here: counts those of this process.
    """

    def __init__(self, here: AddressLimits) -> None:
        self._here = here
        self.everywhere: AllProcesses | None = None  # where there are other processes

    @property
    def live(self) -> int:
        """Calls now, in this process."""
        return self._here.live

    @property
    def by_network(self) -> dict[str, int]:
        """Calls now, in this process, of each network."""
        return self._here.by_network

    async def enter(self, address: str, now: float) -> None:
        """A call begins, and is one at once. Raises TooMany; otherwise `leave` has to follow."""
        self._here.enter(address, now)
        if self.everywhere is not None:
            await self._hold(address, self.everywhere.enter(network_of(address)))

    async def begin(self, address: str, now: float, moves: bool = False) -> None:
        """A call begins that is none yet. Raises TooMany where it could not become one, or too many begin.

        `moves`: it was one elsewhere, and may be counted there still.
        """
        self._here.begin(address, now)
        if self.everywhere is not None and not moves:
            _check(await self.everywhere.begin(network_of(address)))

    async def connect(self, address: str, moves: bool = False) -> None:
        """A call that has begun is one from now on. Raises TooMany; otherwise `leave` has to follow.

        `moves`: as for `begin`.
        """
        self._here.connect(address)
        if self.everywhere is not None:
            await self._hold(address, self.everywhere.connect(network_of(address), moves))

    async def _hold(self, address: str, refusal: Awaitable[str | None]) -> None:
        """Gives the place here back where others refuse it, or the call ends before they have answered.

        In the second case they may have counted it, until this process next tells them what calls it has.
        """
        try:
            _check(await refusal)
        except BaseException:
            self._here.leave(address)
            raise

    def leave(self, address: str) -> None:
        """A call has ended."""
        self._here.leave(address)
        if self.everywhere is not None:
            self.everywhere.leave(network_of(address))


def _check(refusal: str | None) -> None:
    if refusal is not None:
        raise TooMany(refusal)
