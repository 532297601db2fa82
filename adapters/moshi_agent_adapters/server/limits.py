"""What one address, and one call, may do: numbers only, time is passed in."""

from __future__ import annotations

from collections import Counter, deque

from moshi_agent.plural import counted

_MINUTE_S = 60.0


class TooMany(Exception):
    """One address has too many calls at once, or begins too many."""


class AddressLimits:
    """Counts the calls of each address. Forgets an address that has been quiet for a minute."""

    def __init__(self, at_once: int, starts_per_minute: int) -> None:
        self._at_once = at_once
        self._starts_per_minute = starts_per_minute
        self._live: Counter[str] = Counter()
        self._starts: dict[str, deque[float]] = {}

    @property
    def live(self) -> int:
        """Calls now, of all addresses."""
        return self._live.total()

    def enter(self, address: str, now: float) -> None:
        """A call begins. Raises TooMany; otherwise `leave` has to follow."""
        self._forget(now)
        if self._live[address] >= self._at_once:
            raise TooMany(f"from one address {counted(self._at_once, 'call')} at once may come")
        starts = self._starts.setdefault(address, deque())
        if len(starts) >= self._starts_per_minute:
            raise TooMany(f"from one address {counted(self._starts_per_minute, 'call')} a minute may come")
        starts.append(now)
        self._live[address] += 1

    def leave(self, address: str) -> None:
        """A call has ended."""
        self._live[address] -= 1
        if not self._live[address]:
            del self._live[address]

    def _forget(self, now: float) -> None:
        for address, starts in list(self._starts.items()):
            while starts and starts[0] <= now - _MINUTE_S:
                starts.popleft()
            if not starts:
                del self._starts[address]


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


class Allowance:
    """A budget that is spent by work and refilled by time, up to its size.

    Args:
        per_second: what comes back each second.
        size: what there is at the beginning, and at most.
    """

    def __init__(self, per_second: float, size: float) -> None:
        self._per_second, self._size = per_second, size
        self._left = size
        self._now: float | None = None

    def spend(self, cost: float, now: float) -> bool:
        """Takes a cost out of the budget; False, and nothing taken, where there is not so much left."""
        passed = 0.0 if self._now is None else now - self._now
        self._now = now
        self._left = min(self._size, self._left + passed * self._per_second)
        if cost > self._left:
            return False
        self._left -= cost
        return True
