"""How many more conversations an engine would take, told before one is asked for."""

from __future__ import annotations

from moshi_agent import Engine


def free_rows(engine: Engine) -> int:
    """Conversations that would be taken now."""
    capacity = engine.capacity()
    return capacity.free if engine.config.admit_by_time else capacity.rows - capacity.live
