"""What is told of an engine's room is what it would take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from moshi_agent import EngineConfig
from moshi_agent.engine.capacity import Capacity
from moshi_agent_adapters.room import free_rows


@dataclass(frozen=True)
class _EngineOf:
    """As much of an engine as is asked."""

    config: EngineConfig
    figures: Capacity

    def capacity(self) -> Capacity:
        return self.figures


@pytest.mark.parametrize(
    ("admit_by_time", "live", "by_time", "free"),
    [
        (True, 0, 8, 4),
        (True, 0, 3, 3),
        (True, 0, 0, 1),  # the first conversation is not a question of time
        (True, 1, 3, 2),
        (True, 3, 3, 0),
        (False, 3, 1, 1),  # an engine that takes by rows alone
        (False, 4, 8, 0),
    ],
)
def test_rows_are_free_as_the_engine_admits(admit_by_time: bool, live: int, by_time: int, free: int) -> None:
    figures = Capacity(
        rows=4, live=live, by_memory=9, by_time=by_time, row_bytes=1, step_ms={}, budget_ms=72.0
    )
    engine: Any = _EngineOf(EngineConfig(admit_by_time=admit_by_time), figures)
    assert free_rows(engine) == free
