"""What a replica says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Report:
    """Says how a replica is, every second."""

    replica: str
    live: int  # calls
    free: int  # calls that it would take now
    is_healthy: bool
    is_draining: bool
    metrics: bytes = field(repr=False)  # in Prometheus' text format
    calls: Mapping[str, int] = field(default_factory=dict[str, int], repr=False)  # now, of each network


def have_room(reports: Sequence[Report], replica: str, calls: int) -> bool:
    """Whether the replicas but this one, as far as they stay, have places for so many calls."""
    others = (one for one in reports if one.replica != replica and one.is_healthy and not one.is_draining)
    return sum(one.free for one in others) >= max(1, calls)
