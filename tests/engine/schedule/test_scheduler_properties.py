"""What the scheduler promises holds on any day: random callers and steps, on a clock that the tests move."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moshi_agent.engine.schedule.pace import Pace
from moshi_agent.engine.schedule.scheduler import Ready, Scheduler
from moshi_agent.errors import BacklogFull

# Sums of these are exact in binary: the tests compare times with ==.
TICK_S = 1 / 128
PACE = Pace(frame_s=8 * TICK_S, stall_s=24 * TICK_S, backlog_limit_s=16 * TICK_S, longest_backlog_s=1.0)
OFFLINE = Pace(live=False, frame_s=8 * TICK_S, longest_backlog_s=1.0)
LIMIT = 2  # frames in backlog_limit_s
LONGEST = 16  # frames in longest_backlog_s


@dataclass
class Caller:
    """What a conversation has been given and has got, kept apart from the scheduler."""

    pace: Pace
    heard_from: float  # when input last came, or the conversation or its clock began
    waiting: list[tuple[int, float, bool]] = field(default_factory=list)  # number, arrival, silent
    urgent: list[tuple[int, float]] = field(default_factory=list)
    silences_at: list[float] = field(default_factory=list)  # of the present stall
    finished: bool = False

    @property
    def on_the_clock(self) -> bool:
        return self.pace.live and not self.finished


class AnyDay(RuleBasedStateMachine):
    """Random callers at a random pace, and a device that is free at random times."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.callers: dict[int, Caller] = {}
        self.numbers = 0  # of frames and callers
        self.scheduler = Scheduler[int, int]()
        self.pushed = self.delivered = self.skipped = self.dropped = 0

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def pick(self, index: int) -> int:
        return sorted(self.callers)[index % len(self.callers)]

    @initialize(gather_ticks=st.sampled_from([0, 1, 4]))
    def start(self, gather_ticks: int) -> None:
        self.scheduler = Scheduler(gather_s=gather_ticks * TICK_S)

    @rule(ticks=st.sampled_from([1, 2, 5, 8, 8, 31, 100]))
    def time_passes(self, ticks: int) -> None:
        self.now += ticks * TICK_S

    @precondition(lambda self: len(self.callers) < 6)
    @rule(live=st.sampled_from([True, True, False]), prompt=st.integers(0, 3))
    def join(self, live: bool, prompt: int) -> None:
        key = self.next_number()
        frames = [self.next_number() for _ in range(prompt)]
        caller = Caller(PACE if live else OFFLINE, self.now, urgent=[(frame, self.now) for frame in frames])
        self.pushed += prompt
        self.scheduler.add(key, self.now, caller.pace, frames)
        self.callers[key] = caller

    @precondition(lambda self: self.callers)
    @rule(index=st.integers(0, 5))
    def leave(self, index: int) -> None:
        key = self.pick(index)
        caller = self.callers.pop(key)
        left = len(caller.waiting) + len(caller.urgent)
        assert self.scheduler.remove(key) == left
        self.dropped += left

    @precondition(lambda self: self.callers)
    @rule(index=st.integers(0, 5), silences=st.lists(st.booleans(), min_size=1, max_size=7))
    def talk(self, index: int, silences: list[bool]) -> None:
        key = self.pick(index)
        caller = self.callers[key]
        for silent in silences:
            frame = self.next_number()
            if len(caller.waiting) == LONGEST:
                with pytest.raises(BacklogFull):
                    self.scheduler.push(key, frame, self.now, silent)
                continue
            self.scheduler.push(key, frame, self.now, silent)
            caller.waiting.append((frame, self.now, silent))
            caller.heard_from = self.now
            self.pushed += 1

    @precondition(lambda self: self.callers)
    @rule(index=st.integers(0, 5), count=st.integers(1, 3))
    def prompt(self, index: int, count: int) -> None:
        key = self.pick(index)
        frames = [self.next_number() for _ in range(count)]
        self.scheduler.push_urgent(key, frames, self.now)
        self.callers[key].urgent += [(frame, self.now) for frame in frames]
        self.pushed += count

    @precondition(lambda self: self.callers)
    @rule(index=st.integers(0, 5))
    def finish(self, index: int) -> None:
        key = self.pick(index)
        self.scheduler.finish(key)
        self.callers[key].finished = True

    @rule()
    def wake_and_step(self) -> None:
        wake_at = self.scheduler.wake_at(self.now)
        if wake_at is None:
            assert not self.scheduler.batch(self.now + 1e6)
            return
        assert wake_at >= self.now
        if wake_at > self.now:
            assert not self.scheduler.batch(math.nextafter(wake_at, 0))
        self.now = wake_at
        assert self.step()

    @rule()
    def wait_no_longer(self) -> None:
        self.step()

    def step(self) -> list[Ready[int, int]]:
        oldest_s = max((self.now - at for at in self.arrivals()), default=-1.0)
        all_ready = all(
            caller.waiting or caller.urgent for caller in self.callers.values() if caller.on_the_clock
        )
        batch = self.scheduler.batch(self.now)
        if oldest_s >= self.scheduler.gather_s or (oldest_s >= 0 and all_ready):
            assert batch, "a frame has waited for longer than gathering takes"
        if batch:
            brought = {ready.key for ready in batch}
            assert len(brought) == len(batch), "one frame of a conversation in a step"
            assert brought >= {key for key, caller in self.callers.items() if caller.waiting or caller.urgent}
        for ready in batch:
            self.receive(self.callers[ready.key], ready)
        return batch

    def arrivals(self) -> list[float]:
        """Of the frame of each conversation that is next."""
        callers = self.callers.values()
        return [
            caller.urgent[0][1] if caller.urgent else caller.waiting[0][1]
            for caller in callers
            if (caller.urgent or caller.waiting)
        ]

    def receive(self, caller: Caller, ready: Ready[int, int]) -> None:
        if caller.urgent:
            backlog_s = len(caller.waiting) * PACE.frame_s
            assert ready == Ready(key=ready.key, frame=caller.urgent.pop(0)[0], backlog_s=backlog_s)
            caller.heard_from = max(caller.heard_from, self.now)
            self.delivered += 1
        elif caller.waiting:
            self.receive_input(caller, ready)
        else:
            self.receive_silence(caller, ready)

    def receive_input(self, caller: Caller, ready: Ready[int, int]) -> None:
        left_out, behind = caller.waiting[: ready.skipped], caller.waiting[ready.skipped + 1 :]
        frame, arrived, silent = caller.waiting[ready.skipped]
        assert ready.frame == frame
        assert ready.waited_s == self.now - arrived
        assert ready.backlog_s == len(behind) * PACE.frame_s
        assert ready.resumed_after == len(caller.silences_at)
        assert not ready.begins_stall
        assert all(was_silent for _, _, was_silent in left_out)
        if left_out:
            assert caller.pace.live
            assert len(behind) + 1 > LIMIT, "skipped although those behind were within the limit"
        if caller.pace.live and silent:
            assert len(behind) <= LIMIT, "not skipped although late"
        caller.waiting = behind
        caller.silences_at = []
        self.delivered += 1
        self.skipped += len(left_out)

    def receive_silence(self, caller: Caller, ready: Ready[int, int]) -> None:
        assert ready == Ready(key=ready.key, frame=None, begins_stall=not caller.silences_at)
        assert caller.on_the_clock
        grace_s = 0.0 if caller.silences_at else PACE.stall_s
        assert self.now >= caller.heard_from + PACE.frame_s + grace_s
        caller.silences_at.append(self.now)

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        waiting = sum(self.scheduler.waiting(key) for key in self.callers)
        assert self.pushed == self.delivered + self.skipped + self.dropped + waiting
        for key, caller in self.callers.items():
            assert self.scheduler.waiting(key) == len(caller.waiting) + len(caller.urgent)
            assert self.scheduler.backlog_s(key) == len(caller.waiting) * PACE.frame_s
            assert self.scheduler.room(key) == LONGEST - len(caller.waiting)


test_any_day_holds_what_a_scheduler_promises = AnyDay.TestCase


@dataclass
class Caught:
    """What came out of a day of one device."""

    heard: dict[int, list[int]]
    filled_at: list[float] = field(default_factory=list)
    backlogs_s: list[float] = field(default_factory=list)


def _serve(arrivals: list[tuple[float, int, int, bool]], step_s: list[float]) -> Caught:
    """Runs a device whose steps take `step_s`, then 1 ms each, on (time, caller, frame, silent)."""
    scheduler = Scheduler[int, int]()
    caught = Caught({key: [] for _, key, _, _ in arrivals})
    for key in caught.heard:
        scheduler.add(key, 0.0, Pace())
    coming, steps, free_at = deque(sorted(arrivals)), iter(step_s), 0.0
    end = coming[-1][0] + 0.27
    while coming or any(map(scheduler.waiting, caught.heard)):
        wake_at = scheduler.wake_at(free_at)
        assert wake_at is not None
        if coming and coming[0][0] <= wake_at:
            now, key, frame, silent = coming.popleft()
            scheduler.push(key, frame, now, silent)
            continue
        for ready in scheduler.batch(wake_at):
            caught.backlogs_s.append(ready.backlog_s)
            if ready.frame is not None:
                caught.heard[ready.key].append(ready.frame)
            elif wake_at < end:
                caught.filled_at.append(wake_at)
        free_at = wake_at + next(steps, 0.001)
    return caught


@given(
    phases_ms=st.lists(st.integers(0, 79), min_size=1, max_size=8),
    step_ms=st.lists(st.integers(1, 120), max_size=40),
    silent_tenths=st.integers(0, 10),
)
def test_callers_who_keep_time_are_heard_to_the_end_by_a_device_that_does_not(
    phases_ms: list[int], step_ms: list[int], silent_tenths: int
) -> None:
    arrivals = [
        ((phase_ms + 80 * frame) / 1000, key, frame, frame % 10 < silent_tenths)
        for key, phase_ms in enumerate(phases_ms)
        for frame in range(50)
    ]
    caught = _serve(arrivals, [ms / 1000 for ms in step_ms])
    assert not caught.filled_at
    for frames in caught.heard.values():
        assert frames == sorted(set(frames))
        assert all(frame % 10 < silent_tenths for frame in set(range(50)).difference(frames))
    if max(step_ms, default=0) <= 80:
        assert all(len(frames) == 50 for frames in caught.heard.values()), "skipped although never late"


def test_pauses_keep_the_backlog_short_though_every_step_takes_longer_than_a_frame() -> None:
    """Steps of 96 ms lose 16 ms a frame: 0.32 s in 20 frames of speech, made good in 10 silent ones."""
    arrivals = [(0.08 * frame, 0, frame, frame % 30 >= 20) for frame in range(3000)]
    caught = _serve(arrivals, [0.096] * 3000)
    assert max(caught.backlogs_s) <= 0.16 + 0.32 + 0.08
    skipped = set(range(3000)).difference(caught.heard[0])
    assert all(frame % 30 >= 20 for frame in skipped)
    assert len(skipped) == pytest.approx(3000 * (1 - 80 / 96), abs=10)
