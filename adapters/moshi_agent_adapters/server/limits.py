"""What one address, and one call, may do: numbers only, time is passed in."""

from __future__ import annotations

import logging
from collections import Counter, deque

from moshi_agent.plural import counted
from moshi_agent_adapters.allowance import Allowance
from moshi_agent_adapters.networks import network_of

_log = logging.getLogger("moshi_agent.server")
_MINUTE_S = 60.0


class TooMany(Exception):
    """One address has too many calls at once, or begins too many."""


def check_room(live: int, at_once: int) -> None:
    """Raises TooMany where an address with so many calls may have no more."""
    if live >= at_once:
        raise TooMany(f"from one address {counted(at_once, 'call')} at once may come")


class Starts:
    """Counts the calls that networks have begun within a minute."""

    def __init__(self) -> None:
        self._begun: dict[str, deque[float]] = {}

    def begin(self, network: str, per_minute: int, now: float) -> None:
        """A call begins. Raises TooMany."""
        self._forget(now)
        begun = self._begun.setdefault(network, deque())
        if len(begun) >= per_minute:
            raise TooMany(f"from one address {counted(per_minute, 'call')} a minute may come")
        begun.append(now)

    def _forget(self, now: float) -> None:
        for network, begun in list(self._begun.items()):
            while begun and begun[0] <= now - _MINUTE_S:
                begun.popleft()
            if not begun:
                del self._begun[network]


class AddressLimits:
    """Counts the calls of each address. Forgets an address that has been quiet for a minute.

    Args:
        at_once: calls of one address.
        starts_per_minute: of calls, from one address.
    """

    def __init__(self, at_once: int, starts_per_minute: int) -> None:
        self._at_once = at_once
        self._starts_per_minute = starts_per_minute
        self._live: Counter[str] = Counter()
        self._starts = Starts()

    @property
    def live(self) -> int:
        """Calls now, of all addresses."""
        return self._live.total()

    @property
    def by_network(self) -> dict[str, int]:
        """Calls now, of each network that has any."""
        return dict(self._live)

    def enter(self, address: str, now: float) -> None:
        """A call begins, and is one at once. Raises TooMany; otherwise `leave` has to follow."""
        self.begin(address, now)
        self.connect(address)

    def connect(self, address: str) -> None:
        """A call that has begun is one from now on. Raises TooMany; otherwise `leave` has to follow."""
        network = network_of(address)
        check_room(self._live[network], self._at_once)
        self._live[network] += 1

    def begin(self, address: str, now: float) -> None:
        """A call begins that is none yet. Raises TooMany where it could not become one, or too many begin."""
        network = network_of(address)
        check_room(self._live[network], self._at_once)
        self._starts.begin(network, self._starts_per_minute, now)

    def leave(self, address: str) -> None:
        """A call has ended."""
        network = network_of(address)
        self._live[network] -= 1
        if not self._live[network]:
            del self._live[network]


class ConnectionLimits:
    """Counts connections, whoever they are: in all, and those of one address that have shown nothing yet.

    Args:
        at_once: connections, of all addresses.
        per_address: connections of one address, but for websockets that are let in; None for no limit.
    """

    def __init__(self, at_once: int, per_address: int | None) -> None:
        self._at_once, self._per_address = at_once, per_address
        self.live = 0
        self._warnings = Allowance(1 / _MINUTE_S, 1)
        self._strangers: Counter[str] = Counter()

    def enter(self, address: str, now: float) -> ConnectionPlace | None:
        """The place of one more connection; None, and a warning now and then, where there is none."""
        network = network_of(address)
        is_full = self._per_address is not None and self._strangers[network] >= self._per_address
        if is_full or self.live >= self._at_once:
            if self._warnings.spend(1, now):
                _log.warning(
                    "too many connections: %d in all, and one more from %s is refused, as others will be",
                    *(self.live, address),
                    extra={"connections": self.live, "address": address},
                )
            return None
        self.live += 1
        self._strangers[network] += 1
        return ConnectionPlace(self, network)

    def prove(self, network: str) -> None:
        """A connection of this network is a stranger's no more."""
        self._strangers[network] -= 1
        if not self._strangers[network]:
            del self._strangers[network]


class ConnectionPlace:
    """What one connection takes of `ConnectionLimits`."""

    def __init__(self, limits: ConnectionLimits, network: str) -> None:
        self._limits, self._network = limits, network
        self._is_stranger = self._is_taken = True

    def prove(self) -> None:
        """It has been let in: the limits of calls go for it from now on."""
        if self._is_stranger:
            self._is_stranger = False
            self._limits.prove(self._network)

    def leave(self) -> None:
        """It has ended."""
        self.prove()
        if self._is_taken:
            self._is_taken = False
            self._limits.live -= 1


class Pace:
    """How far the audio of a client is ahead of real time.

    Counted from the call's first audio: what a stalled network held up and brings all at once is not ahead.
    """

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s
        self._heard_s = 0.0
        self._began: float | None = None

    def admits(self, audio_s: float, now: float) -> bool:
        """Whether so much more audio is within bounds. It counts as having come either way."""
        if self._began is None:
            self._began = now
        self._heard_s += audio_s
        return self._heard_s <= now - self._began + self._ahead_s
