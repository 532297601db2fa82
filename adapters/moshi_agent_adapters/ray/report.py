"""What a replica says of itself."""

from __future__ import annotations

from collections.abc import Mapping
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
