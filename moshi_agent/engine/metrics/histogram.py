"""Counts how a measured quantity is distributed while it comes in, in bounded memory.

`prometheus_client` has histograms, too. They are not used here because they know no percentiles, take a lock
for each value, and cannot be sent from the engine's process to the server's as plain numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Shows a histogram as it was at one moment, in its own unit. All zero before the first value.

    The percentiles are those of recent values; everything else is of all there ever were.
    """

    count: int
    total: float
    max: float
    p50: float
    p95: float
    p99: float
    bounds: tuple[float, ...]  # upper and inclusive, one a bucket but for the last, which has none
    buckets: tuple[int, ...]  # values in each, one more than there are bounds

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


class Histogram:
    """Counts values into buckets and remembers the last `recent` of them for percentiles.

    One thread writes at a time. Any thread may read meanwhile, without a lock: what it gets may lack the
    value that is being written.
    """

    def __init__(self, bounds: Sequence[float], recent: int = 4096) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError(f"the bounds of buckets must ascend: {list(bounds)}")
        if recent < 1:
            raise ValueError(f"percentiles need at least one recent value, not {recent}")
        self._bounds = tuple(bounds)
        self._buckets = [0] * (len(self._bounds) + 1)
        self._recent = np.zeros(recent)  # a ring
        self._count = 0
        self._forgotten = 0  # values that the percentiles leave out
        self._total = 0.0
        self._max = 0.0

    def observe(self, value: float) -> None:
        """Adds a value, which is not negative."""
        # The value is in its place before it counts: a reader never sees an empty place of the ring.
        self._recent[self._count % len(self._recent)] = value
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._total += value
        self._max = max(self._max, value)
        self._count += 1

    def restart_percentiles(self) -> None:
        """Has the percentiles cover values from now on; everything else stays."""
        self._forgotten = self._count

    def read(self) -> Distribution:
        """Returns the distribution so far."""
        end = self._count
        first = max(self._forgotten, end - len(self._recent))
        recent = self._recent[np.arange(first, end) % len(self._recent)]
        p50, p95, p99 = np.percentile(recent, (50, 95, 99)).tolist() if len(recent) else (0.0, 0.0, 0.0)
        buckets = tuple(self._buckets)
        return Distribution(
            count=sum(buckets),
            total=self._total,
            max=self._max,
            p50=p50,
            p95=p95,
            p99=p99,
            bounds=self._bounds,
            buckets=buckets,
        )
