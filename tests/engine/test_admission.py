"""Who is let in: capacity, time, the waiting queue, and the end of service."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import (
    AudioChunk,
    Ended,
    EngineConfig,
    EngineFull,
    EngineUnhealthy,
    Session,
    SessionClosed,
    SessionConfig,
)
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.admission import Admission
from moshi_agent.engine.capacity import StepTimes
from moshi_agent.engine.commands import Close, Drain, Stop
from moshi_agent.engine.metrics.metrics import Metrics
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, kinds_of, taken


def test_a_full_engine_says_how_full(core: SteppedCore) -> None:
    sessions = [core.session() for _ in range(4)]
    with pytest.raises(EngineFull, match="no row is free: 4 conversations, capacity 4"):
        core.session()
    assert core.core.metrics.snapshot().refused_sessions == 1
    sessions[1].close()
    core.settle()
    sessions.append(core.session())
    assert core.core.metrics.snapshot().live_sessions == 4


def measured(**step_ms: float) -> StepTimes:
    times = StepTimes(budget_ms=72)
    note(times, **step_ms)
    return times


def note(times: StepTimes, **step_ms: float) -> None:
    """So many of each that what was measured before is forgotten."""
    for name, milliseconds in step_ms.items():
        for _ in range(40):
            times.note(int(name.removeprefix("rows_")), milliseconds)


def test_a_step_that_would_take_too_long_leaves_no_room(small_checkpoint: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, times := measured(rows_1=20, rows_2=45))
    first = core.session()
    note(times, rows_1=20)  # on this clock no step takes any time
    second = core.session()
    note(times, rows_1=20, rows_2=47)
    with pytest.raises(
        EngineFull, match="a step with 3 conversations would take 74 ms of the 72 ms there are"
    ):
        core.session()
    note(times, rows_1=20, rows_2=45)
    third = core.session()
    assert first.is_open
    assert second.is_open
    assert third.is_open


def test_time_does_not_matter_where_it_is_not_to(small_checkpoint: Checkpoint) -> None:
    times = measured(rows_1=500)
    core = SteppedCore(small_checkpoint, times, admit_by_time=False)
    first = core.session()
    note(times, rows_1=500)
    assert core.session().is_open
    assert first.is_open


def test_the_first_is_let_in_however_slow_the_device(small_checkpoint: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, times := measured(rows_1=500))
    first = core.session()
    note(times, rows_1=500)
    with pytest.raises(EngineFull, match="would take 1000 ms of the 72 ms there are"):
        core.session()
    assert first.is_open


def test_expected_times_lie_on_lines_between_what_was_measured() -> None:
    times = StepTimes(budget_ms=100)
    assert times.expected_ms(3) == 0
    for rows, step_ms in ((1, 10.0), (4, 40.0), (8, 60.0)):
        times.note(rows, step_ms)
    assert [times.expected_ms(rows) for rows in (1, 2, 4, 6, 8, 16)] == [10, 20, 40, 50, 60, 100]
    assert times.most_rows() == 16
    assert times.table == {1: 10, 4: 40, 8: 60}


@given(
    step_ms=st.dictionaries(st.integers(1, 12), st.floats(1, 150), max_size=5),
    live=st.integers(0, 12),
    admit_by_time=st.booleans(),
    drains=st.booleans(),
)
def test_what_is_said_to_be_free_is_what_is_let_in(
    step_ms: dict[int, float], live: int, admit_by_time: bool, drains: bool
) -> None:
    times = StepTimes(budget_ms=72)
    for rows, milliseconds in step_ms.items():
        times.note(rows, milliseconds)
    admission = Admission(EngineConfig(capacity=10, admit_by_time=admit_by_time), times, Metrics())
    if drains:
        admission.drain(live, 1.0)
    let_in = 0
    while admission.refusal(live + let_in) is None:
        let_in += 1
    assert admission.free(live) == let_in


@pytest.mark.parametrize(
    ("admit_by_time", "live", "step_ms", "free"),
    [
        (True, 0, 7, 4),
        (True, 0, 24, 3),
        (True, 0, 500, 1),  # the first conversation is not a question of time
        (True, 1, 24, 2),
        (True, 3, 24, 0),
        (False, 3, 500, 1),  # an engine that takes by rows alone
        (False, 4, 7, 0),
    ],
)
def test_rows_are_free_as_the_engine_admits(
    small_checkpoint: Checkpoint, admit_by_time: bool, live: int, step_ms: float, free: int
) -> None:
    core = SteppedCore(small_checkpoint, times := StepTimes(budget_ms=72), admit_by_time=admit_by_time)
    sessions = [core.session() for _ in range(live)]
    note(times, rows_1=step_ms, **{f"rows_{rows}": step_ms * rows for rows in (2, 3, 4)})
    assert core.core.free == free
    assert (core.core.refusal is None) == (free > 0)
    assert len(sessions) == live


def test_who_waits_is_let_in_in_turn(small_checkpoint: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, capacity=1, waiting=2, wait_timeout_s=5)
    first = core.session()
    _, second, second_events = core.knock()
    _, third, _ = core.knock()
    with pytest.raises(EngineFull, match="no row is free"):
        core.session()
    core.wait(1)
    assert not second.done()
    first.close()
    core.wait(1)
    assert second.done()
    assert second.exception() is None
    assert not third.done()
    assert second_events.get(0).frame == 0
    core.wait(4)
    assert isinstance(third.exception(0), EngineFull)
    assert core.core.metrics.snapshot().refused_sessions == 2


def test_who_waits_may_go_away(small_checkpoint: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, capacity=1, waiting=2)
    first = core.session()
    key, second, _ = core.knock()
    _, third, _ = core.knock()
    core.send(Close(key))
    core.settle()
    assert isinstance(second.exception(0), SessionClosed)
    first.close()
    core.settle()
    assert third.exception(0) is None


def test_a_reply_that_nobody_waits_for_any_more_harms_nobody(small_checkpoint: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, capacity=2, waiting=2)
    first, neighbour = core.session(), core.session()
    key, second, events = core.knock()
    assert second.cancel()
    first.close()
    core.settle()
    core.send(Close(key))
    core.settle()
    assert neighbour.is_open
    assert events.is_over
    figures = core.core.metrics.snapshot()
    assert (figures.live_sessions, figures.restarts) == (1, 0)


def test_draining_lets_nobody_in_and_the_rest_until_the_time_is_up(small_checkpoint: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, capacity=2, waiting=2)
    short, long = core.session(), core.session()
    _, waiting, _ = core.knock()
    core.send(Drain(5))
    core.settle()
    assert isinstance(waiting.exception(0), EngineFull)
    with pytest.raises(EngineFull, match="shutting down, with 2 conversations left"):
        core.session()
    short.close()
    core.wait(4.8)
    long.push(SILENCE)
    core.wait(0.1)
    assert long.is_open
    core.wait(0.2)
    (end,) = kinds_of(taken(long), Ended)
    assert isinstance(end, Ended)
    assert end.reason == "drained"
    assert core.core.metrics.snapshot().live_sessions == 0
    assert core.core._admission.wake_at is None  # nothing is left that would wake the thread


def test_the_end_refuses_who_waits_and_ends_the_rest(small_checkpoint: Checkpoint) -> None:
    core = SteppedCore(small_checkpoint, capacity=1, waiting=2)
    session = core.session()
    _, waiting, _ = core.knock()
    core.send(Stop())
    core.core.run()
    assert isinstance(waiting.exception(0), EngineUnhealthy)
    (end,) = kinds_of(taken(session), Ended)
    assert isinstance(end, Ended)
    assert end.reason == "closed"
    with pytest.raises(EngineUnhealthy, match="the engine is closed"):
        core.session()
    assert core.core.free == 0
    assert str(core.core.refusal) == "the engine is closed"
    assert core.core.metrics.snapshot().live_sessions == 0


def test_a_session_that_was_refused_may_be_opened_later(core: SteppedCore) -> None:
    sessions = [core.session() for _ in range(4)]
    waiting = Session(77, SessionConfig(seed=1), core)
    with pytest.raises(EngineFull):
        waiting.open()
    sessions[0].close()
    core.settle()
    waiting.open()
    waiting.push(SILENCE)
    core.wait(FRAME_S)
    assert kinds_of(taken(waiting), AudioChunk)
