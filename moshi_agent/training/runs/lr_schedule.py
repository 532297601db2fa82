"""The learning rate over a training."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LRSchedule:
    """Warms up in a line, then falls as a cosine to `final_share` of the highest rate."""

    steps: int
    learning_rate: float
    warm_up: int = 100
    final_share: float = 0.02

    def at(self, step: int) -> float:
        """Gives the learning rate of a step, counted from 0."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(self.steps - self.warm_up, 1)
        share = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * share
