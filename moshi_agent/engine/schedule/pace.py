"""How a conversation keeps time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moshi_agent.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When a conversation's frames are due.

    A live one goes with the clock: stalls are filled with silence, lateness is caught up. Any other takes its
    input as fast as it comes, and nothing is filled in or skipped.
    """

    live: bool = True
    frame_s: float = 0.080
    stall_s: float = 0.2  # input missing for so long: silence is fed; infinite never feeds any
    backlog_limit_s: float = 0.16  # waiting input above this: silent frames are skipped
    longest_backlog_s: float = 30.0  # input that would make more wait is refused
    drops_oldest: bool = False  # or the input that has waited longest is left out for it

    def __post_init__(self) -> None:
        if not 0 < self.frame_s < math.inf:
            raise ConfigError(f"frame_s={self.frame_s} must be above zero and finite")
        if not self.stall_s >= 0:
            raise ConfigError(f"stall_s={self.stall_s} must not be negative")
        if not 0 <= self.backlog_limit_s < math.inf:
            raise ConfigError(f"backlog_limit_s={self.backlog_limit_s} must be finite and not negative")
        if not self.frame_s <= self.longest_backlog_s < math.inf:
            raise ConfigError(
                f"longest_backlog_s={self.longest_backlog_s} must be finite and at least one frame"
            )

    def frames_in(self, seconds: float) -> int:
        """Returns whole frames in so many seconds."""
        return math.floor(seconds / self.frame_s + 1e-6)  # 0.24 / 0.08 is a little less than 3
