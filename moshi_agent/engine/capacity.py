"""How many conversations fit: by the rows there are, by memory, and by the measured time of a step."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

STEP_BUDGET_MS = 80.0  # a frame has to be answered before the next one comes
_USABLE_SHARE = 0.9  # of the budget; the rest is for what is not the step
_REMEMBERED = 32  # steps of each size


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Tells what an engine holds, and what its device would hold."""

    rows: int  # conversations it was set up for
    live: int
    by_memory: int  # rows that the device's free memory would hold, these included
    by_time: int  # conversations whose step stays within the budget, extrapolated beyond `rows`
    row_bytes: int  # of state, for one conversation
    step_ms: Mapping[int, float]  # median measured step, by conversations
    budget_ms: float
    free: int  # conversations that would be taken now
    refusal: str | None  # why none would be


class StepTimes:
    """The time of a step by its number of rows, as measured at the start and on the way."""

    def __init__(self, budget_ms: float = STEP_BUDGET_MS * _USABLE_SHARE) -> None:
        self.budget_ms = budget_ms
        self._times: dict[int, deque[float]] = {}

    def note(self, rows: int, step_ms: float) -> None:
        """Notes how long one step of so many rows took."""
        self._times.setdefault(rows, deque(maxlen=_REMEMBERED)).append(step_ms)

    @property
    def table(self) -> dict[int, float]:
        """Median ms by rows. May be called from any thread."""
        return {rows: statistics.median(list(times)) for rows, times in sorted(self._times.items())}

    def expected_ms(self, rows: int) -> float:
        """Tells what a step of so many rows should take, by the sizes measured on both sides."""
        return _expected_ms(self.table, rows)

    def most_rows(self, limit: int = 4096) -> int:
        """Tells how many rows stay within the budget."""
        table, low, high = self.table, 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            has_room = _expected_ms(table, middle) <= self.budget_ms
            low, high = (middle, high) if has_room else (low, middle - 1)
        return low


def _expected_ms(times: Mapping[int, float], rows: int) -> float:
    table = list(times.items())
    if not table:
        return 0.0
    if rows <= table[0][0] or len(table) == 1:
        return table[0][1] if rows <= table[0][0] else table[0][1] * rows / table[0][0]
    upper = next((i for i, (size, _) in enumerate(table) if size >= rows), len(table) - 1)
    (low, low_ms), (high, high_ms) = table[upper - 1], table[upper]
    slope = max(0.0, (high_ms - low_ms) / (high - low))
    return low_ms + slope * (rows - low)
