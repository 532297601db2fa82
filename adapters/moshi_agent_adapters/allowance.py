"""How much work one call may make: numbers only, time is passed in."""

from __future__ import annotations


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
