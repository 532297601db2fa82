"""What is commanded between two steps is bounded in time as well as in number."""

from __future__ import annotations

import numpy as np
import pytest

from moshi_agent.engine.commands import NoteDropped
from moshi_agent.events import AudioChunk
from tests.engine.stepped_core import SILENCE, SteppedCore, kinds_of, taken


@pytest.mark.parametrize(("tick_s", "obeyed"), [(0.0, 256), (0.001, 10), (0.004, 3), (1.0, 1)])
def test_slow_commands_wait_for_the_next_step(core: SteppedCore, tick_s: float, obeyed: int) -> None:
    for _ in range(300):
        core.send(NoteDropped(key=77, samples=1))
    core.tick_s = tick_s  # for each look at the clock: one a command
    core.core.run_once()
    left = 0
    while core.inbox.get(0) is not None:
        left += 1
    assert 300 - left == obeyed


def test_a_conversation_goes_on_under_many_slow_commands(core: SteppedCore) -> None:
    session = core.session()
    session.push(np.concatenate([SILENCE] * 4))
    for _ in range(100):
        core.send(NoteDropped(key=77, samples=1))
    core.tick_s = 0.02
    for _ in range(20):
        core.core.run_once()
    assert kinds_of(taken(session), AudioChunk)
    assert core.inbox.get(0) is not None, "the commands would have been over before the step"
