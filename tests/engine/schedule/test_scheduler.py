"""Who takes part in the next step, on a clock that the tests move."""

from __future__ import annotations

import math

import pytest

from moshi_agent.engine.schedule.pace import Pace
from moshi_agent.engine.schedule.scheduler import Ready, Scheduler
from moshi_agent.errors import BacklogFull, ConfigError, InputError

# Sums of these are exact in binary: the tests compare times with ==.
TICK_S = 1 / 128
PACE = Pace(frame_s=8 * TICK_S, stall_s=24 * TICK_S, backlog_limit_s=16 * TICK_S, longest_backlog_s=1.0)
OFFLINE = Pace(live=False, frame_s=8 * TICK_S, longest_backlog_s=1.0)


def _batches_until(
    scheduler: Scheduler[str, int], now: float, end: float
) -> list[tuple[float, Ready[str, int]]]:
    """All that an idle device is given from `now` to `end`, with the times."""
    given: list[tuple[float, Ready[str, int]]] = []
    while (wake_at := scheduler.wake_at(now)) is not None and wake_at <= end:
        now = wake_at
        given += [(now, ready) for ready in scheduler.batch(now)]
    return given


def test_input_in_time_is_passed_on_at_once_and_nothing_else_happens() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, Pace())
    for frame in range(100):
        now = 0.08 * frame
        scheduler.push("a", frame, now, silent=frame % 2 == 0)
        assert scheduler.batch(now) == [Ready(key="a", frame=frame)]
        assert scheduler.batch(now) == []


def test_a_stall_is_filled_a_frame_at_a_time_until_input_comes() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, PACE)
    silences = _batches_until(scheduler, 0.0, 1.0)
    assert [at / TICK_S for at, _ in silences] == list(range(8 + 24, 129, 8))
    assert [ready.begins_stall for _, ready in silences] == [True] + [False] * 12
    assert all(ready.frame is None for _, ready in silences)
    scheduler.push("a", 1, 1.0 + TICK_S, silent=False)
    assert scheduler.batch(1.0 + TICK_S) == [Ready(key="a", frame=1, resumed_after=13)]
    assert scheduler.wake_at(1.0 + TICK_S) == 1.0 + (1 + 8 + 24) * TICK_S


def test_after_a_late_burst_silence_is_skipped_until_the_backlog_is_within_its_limit() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, Pace())
    scheduler.push("a", 0, 0.0, silent=False)
    assert len(scheduler.batch(0.0)) == 1
    filled = _batches_until(scheduler, 0.0, 0.48)
    assert len(filled) == 3  # at 280, 360 and 440 ms
    for frame in range(1, 6):
        scheduler.push("a", frame, 0.48, silent=True)
    first = scheduler.batch(0.48)[0]
    assert (first.frame, first.skipped, first.resumed_after) == (3, 2, 3)
    assert scheduler.backlog_s("a") == pytest.approx(0.16)
    assert [ready.frame for _ in range(2) for ready in scheduler.batch(0.5)] == [4, 5]


def test_no_word_is_skipped_however_late_it_is() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, Pace())
    spoken = [1, 2, 5, 6, 7]
    for frame in range(12):
        scheduler.push("a", frame, 0.0, silent=frame not in spoken)
    heard = [ready.frame for _ in range(12) for ready in scheduler.batch(0.2)]
    assert heard == [*spoken, 9, 10, 11]


def test_offline_input_is_taken_whole_and_waits_for_ever() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, Pace(live=False))
    assert scheduler.wake_at(0.0) is None
    for frame in range(375):
        scheduler.push("a", frame, 0.0, silent=True)
    assert [ready.frame for _, ready in _batches_until(scheduler, 0.0, 1e6)] == list(range(375))
    assert scheduler.wake_at(1e6) is None


def test_a_prompt_goes_first_and_the_clock_starts_after_it() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, PACE, urgent=[10, 11, 12])
    scheduler.push("a", 1, 0.0, silent=True)
    taken = [scheduler.batch(at)[0] for at in (0.0, 1.0, 2.0, 2.0)]
    assert [ready.frame for ready in taken] == [10, 11, 12, 1]
    assert scheduler.wake_at(2.0) == 2.0 + PACE.frame_s + PACE.stall_s


def test_a_prompt_in_a_stall_takes_the_place_of_silence() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, PACE)
    assert scheduler.batch(32 * TICK_S)[0].begins_stall
    scheduler.push_urgent("a", [10], 33 * TICK_S)
    assert scheduler.batch(33 * TICK_S) == [Ready(key="a", frame=10)]
    assert scheduler.wake_at(33 * TICK_S) == 41 * TICK_S
    assert scheduler.batch(41 * TICK_S) == [Ready(key="a", frame=None)]


def test_input_that_has_come_in_a_stall_is_not_forgotten_by_a_prompt() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, PACE)
    scheduler.batch(32 * TICK_S)
    scheduler.push("a", 1, 33 * TICK_S, silent=False)
    scheduler.push_urgent("a", [10], 33 * TICK_S)
    assert [scheduler.batch(33 * TICK_S)[0].frame for _ in range(2)] == [10, 1]
    assert scheduler.wake_at(33 * TICK_S) == (33 + 32) * TICK_S


def test_after_the_end_of_the_input_only_its_tail_comes() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, PACE)
    scheduler.finish("a")
    assert scheduler.wake_at(0.0) is None
    for frame in range(9):
        scheduler.push("a", frame, 0.0, silent=False)
    assert [ready.frame for _, ready in _batches_until(scheduler, 0.0, 60.0)] == list(range(9))


def test_a_busy_device_makes_up_for_missed_silence_but_not_for_all_of_it() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, PACE)
    late = 10.0
    assert [len(scheduler.batch(late)) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert scheduler.wake_at(late) == late + PACE.frame_s


def _met(scheduler: Scheduler[str, int], keys: str, now: float) -> None:
    """Each has brought a frame and had a step: the next ones are expected a frame later."""
    for key in keys:
        scheduler.push(key, 0, now, silent=False)
    assert [ready.key for ready in scheduler.batch(now)] == list(keys)


def test_gathering_waits_for_those_who_are_due_and_for_no_longer_than_it_says() -> None:
    scheduler = Scheduler[str, int](gather_s=2 * TICK_S)
    for key in "abc":
        scheduler.add(key, 0.0, PACE)
    _met(scheduler, "abc", 0.0)
    now = PACE.frame_s
    scheduler.push("a", 1, now, silent=False)
    assert scheduler.batch(now) == []
    assert scheduler.wake_at(now) == now + 2 * TICK_S
    scheduler.push("b", 2, now + TICK_S, silent=False)
    assert scheduler.batch(now + TICK_S) == []
    assert [ready.key for ready in scheduler.batch(now + 2 * TICK_S)] == ["a", "b"]


def test_gathering_ends_with_the_last_one_who_is_due() -> None:
    scheduler = Scheduler[str, int](gather_s=4 * TICK_S)
    for key in "ab":
        scheduler.add(key, 0.0, PACE)
    _met(scheduler, "ab", 0.0)
    now = PACE.frame_s
    scheduler.push("a", 1, now, silent=False)
    assert scheduler.batch(now) == []
    scheduler.push("b", 2, now + TICK_S, silent=False)
    assert [ready.key for ready in scheduler.batch(now + TICK_S)] == ["a", "b"]


def test_nobody_waits_for_a_frame_that_is_not_due() -> None:
    """One later in phase, one never heard of, one offline, one that has finished."""
    scheduler = Scheduler[str, int](gather_s=2 * TICK_S)
    paces = {"a": PACE, "l": PACE, "n": PACE, "o": OFFLINE, "f": PACE}
    for key, pace in paces.items():
        scheduler.add(key, 0.0, pace)
    _met(scheduler, "a", 0.0)
    later = 3 * TICK_S
    assert later < PACE.frame_s
    _met(scheduler, "lf", later)
    scheduler.finish("f")
    scheduler.push("a", 1, PACE.frame_s, silent=False)
    assert scheduler.wake_at(PACE.frame_s) == PACE.frame_s
    assert [ready.key for ready in scheduler.batch(PACE.frame_s)] == ["a"]


def test_gathering_counts_from_the_first_frame_however_many_follow() -> None:
    scheduler = Scheduler[str, int](gather_s=4 * TICK_S)
    for key in "ab":
        scheduler.add(key, 0.0, PACE)
    _met(scheduler, "ab", 0.0)
    now = PACE.frame_s
    for tick in range(4):
        scheduler.push("a", tick, now + tick * TICK_S, silent=False)
        assert scheduler.batch(now + tick * TICK_S) == []
    assert [ready.frame for ready in scheduler.batch(now + 4 * TICK_S)] == [0]


def test_the_silence_of_a_stall_is_waited_for_until_it_is_due() -> None:
    scheduler = Scheduler[str, int](gather_s=4 * TICK_S)
    for key in "ab":
        scheduler.add(key, 0.0, PACE)
    due = PACE.frame_s + PACE.stall_s
    assert scheduler.batch(due)
    scheduler.add("c", due, PACE)
    scheduler.push("c", 1, due + PACE.frame_s - TICK_S, silent=False)
    now = due + PACE.frame_s - TICK_S
    assert scheduler.batch(now) == []
    assert scheduler.wake_at(now) == pytest.approx(now + TICK_S)
    assert [ready.key for ready in scheduler.batch(now + 2 * TICK_S)] == ["a", "b", "c"]


def test_a_backlog_too_long_is_refused_and_what_waits_is_kept() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, Pace(longest_backlog_s=0.24))
    assert scheduler.room("a") == 3
    for frame in range(3):
        scheduler.push("a", frame, 0.0, silent=False)
    with pytest.raises(BacklogFull, match=r"0\.24 s of input wait already, and at most 0\.24 s may"):
        scheduler.push("a", 3, 0.0, silent=False)
    assert issubclass(BacklogFull, InputError)
    assert [ready.frame for _, ready in _batches_until(scheduler, 0.0, 0.1)] == [0, 1, 2]


def test_a_saved_conversation_goes_on_where_it_was() -> None:
    first = Scheduler[str, int]()
    first.add("a", 0.0, PACE)
    first.batch(1.0)
    first.push_urgent("a", [10], 1.0)
    for frame in range(4):
        first.push("a", frame, 1.0, silent=frame == 0)
    saved = first.save("a")
    second = Scheduler[str, int]()
    second.add("b", 500.0, PACE)
    second.load("b", saved, 500.0)
    taken = [ready for _, ready in _batches_until(second, 500.0, 500.0)]
    assert [ready.frame for ready in taken] == [10, 1, 2, 3]
    assert (taken[1].skipped, taken[1].resumed_after, taken[1].waited_s) == (1, 1, 0.0)
    assert second.wake_at(500.0) == 500.0 + PACE.frame_s + PACE.stall_s
    assert second.save("b") == {"urgent": [], "input": [], "silent": [], "silences": 0, "finished": False}
    assert first.waiting("a") == 5


def test_nobody_is_scheduled_twice_and_the_unknown_are_named() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, PACE)
    with pytest.raises(ValueError, match="'a' is scheduled already"):
        scheduler.add("a", 0.0, PACE)
    for call in (scheduler.remove, scheduler.finish, scheduler.waiting, scheduler.backlog_s):
        with pytest.raises(KeyError, match="b"):
            call("b")


@pytest.mark.parametrize(
    "values",
    [
        {"frame_s": 0.0},
        {"frame_s": math.nan},
        {"stall_s": -0.1},
        {"stall_s": math.nan},
        {"backlog_limit_s": -0.1},
        {"backlog_limit_s": math.inf},
        {"longest_backlog_s": math.inf},
        {"longest_backlog_s": 0.05},
    ],
)
def test_a_pace_that_cannot_be_kept_is_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(values))):
        Pace(**values)


def test_an_endless_stall_is_never_filled() -> None:
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, Pace(stall_s=math.inf))
    assert scheduler.wake_at(0.0) is None


@pytest.mark.parametrize("gather_s", [-0.001, math.nan, math.inf])
def test_gathering_for_ever_or_backwards_is_refused(gather_s: float) -> None:
    with pytest.raises(ConfigError, match="gather_s"):
        Scheduler[str, int](gather_s)


def test_a_live_conversation_may_leave_out_what_has_waited_longest() -> None:
    """After a stall of the network everything comes at once: the newest is heard, and the rest is told of."""
    pace = Pace(live=True, longest_backlog_s=0.8, drops_oldest=True)
    scheduler = Scheduler[str, int]()
    scheduler.add("a", 0.0, pace)
    for number in range(25):
        scheduler.push("a", number, 0.0, silent=False)
    taken = [scheduler.batch(0.0)[0] for _ in range(10)]
    assert [ready.frame for ready in taken] == list(range(15, 25))
    assert [ready.skipped for ready in taken] == [15] + [0] * 9
