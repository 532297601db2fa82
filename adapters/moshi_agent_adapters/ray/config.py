"""How many replicas there are to be."""

from __future__ import annotations

from dataclasses import dataclass

from moshi_agent.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """Says how many replicas of the server run: a number, or as many as the calls need between two numbers.

    Raises:
        ConfigError: numbers that cannot be.
    """

    fewest: int = 1
    most: int = 1
    target_load: float = 0.7  # the share of the places that may be taken before one more replica is begun
    scale_up_s: float = 5.0  # for so long there have to be too many calls
    scale_down_s: float = 600.0  # for so long there have to be too few

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise ConfigError(f"{self.fewest} to {self.most} replicas; accepted: 1 or more, fewest first")
        if not 0 < self.target_load <= 1:
            raise ConfigError(f"target_load={self.target_load}; accepted: above 0, and at most 1")
        if self.scale_up_s < 0 or self.scale_down_s < 0:
            raise ConfigError("a time below 0 s; accepted: 0 or more")

    @property
    def is_fixed(self) -> bool:
        """Whether the number stays what it is."""
        return self.fewest == self.most
