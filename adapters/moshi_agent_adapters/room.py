"""How many more conversations an engine would take, told before one is asked for."""

from __future__ import annotations

from moshi_agent import Engine


def free_rows(engine: Engine) -> int:
    """Conversations that would be taken now. However long a step takes, the first one always is."""
    capacity = engine.capacity()
    if not engine.config.admit_by_time:
        return capacity.rows - capacity.live
    return max(capacity.free, int(not capacity.live))
