"""How many replicas the calls need. Ray Serve pickles this module into its controller: it imports nothing."""

from __future__ import annotations

import math
from typing import Any


class LiveCalls:
    """Chooses so many replicas that the target share of their places is taken.

    Calls count as the replicas report them (`live` and `places` of `record_autoscaling_stats`), so that those
    over WebRTC and the telephone count as websockets do.

    Args:
        target_load: the share, above 0 and at most 1.
    """

    def __init__(self, target_load: float) -> None:
        self._target_load = target_load

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Returns the number that is wanted, and no state. Serve keeps to the bounds and the delays."""
        running = set(context.running_replicas)
        live, places = (
            [series[-1].value for replica, series in by_replica.items() if replica in running and series]
            for by_replica in (context.raw_metrics.get(name, {}) for name in ("live", "places"))
        )
        if len(live) < len(running) or not sum(places):
            return context.target_num_replicas, {}  # a replica has not reported yet
        of_one = self._target_load * sum(places) / len(places)
        return max(1, math.ceil(sum(live) / of_one)), {}
