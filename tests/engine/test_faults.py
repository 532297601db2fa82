"""Faults: one row that breaks, a device that fails, and callers who bring nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moshi_agent import (
    AudioChunk,
    Ended,
    EngineUnhealthy,
    InputError,
    Session,
    SessionClosed,
    SessionConfig,
)
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.call.call_state import CallState
from moshi_agent.engine.commands import Close, Finish, InputFrame, NoteDropped, Open
from moshi_agent.engine.event_queue import EventQueue
from moshi_agent.errors import AudioError
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, audio_of, kinds_of, taken

NOISE = np.random.default_rng(0).normal(0, 0.1, (8, 1920)).astype(np.float32)


def end_of(events: list[Any]) -> Ended:
    (end,) = kinds_of(events, Ended)
    assert isinstance(end, Ended)
    assert events[-1] is end
    return end


def fail_once(core: SteppedCore, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    launch, left = core.step.launch, [times]

    def failing(inputs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("out of memory")
        return launch(inputs)

    monkeypatch.setattr(core.step, "launch", failing)


def test_a_row_that_is_no_number_any_more_ends_and_its_neighbours_do_not_notice(
    checkpoint: Checkpoint,
) -> None:
    sounds, ends = {}, {}
    for poisoned in (False, True):
        core = SteppedCore(checkpoint, capacity=3)
        sessions = [core.session(SessionConfig(seed=n, digital_silence=False)) for n in range(3)]
        for frame in range(8):
            if poisoned and frame == 3:
                state = core.step.state.lm.temporal.kv
                state[1] = float("nan")  # the row of the second
            for session in sessions:
                if session.is_open:
                    session.push(NOISE[frame])
            core.wait(FRAME_S)
        events = [taken(session) for session in sessions]
        sounds[poisoned] = [audio_of(one) for one in events]
        ends[poisoned] = [kinds_of(one, Ended) for one in events]
        if poisoned:
            assert end_of(events[1]).reason == "error"
            assert "not a number" in (end_of(events[1]).error or "")
            assert core.core.metrics.snapshot().errors == 1
            newcomer = core.session(SessionConfig(seed=7))  # its row serves again
            core.wait(FRAME_S)
            assert newcomer.is_open
            assert core.core.metrics.snapshot().live_sessions == 3
    assert ends[True][0] == ends[True][2] == []
    for neighbour in (0, 2):
        assert len(sounds[True][neighbour]) == 8 * 1920
        assert np.array_equal(sounds[True][neighbour], sounds[False][neighbour])


def test_a_step_that_fails_ends_its_conversations_and_the_engine_serves_new_ones(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [core.session(SessionConfig(seed=n)) for n in range(3)]
    core.wait(FRAME_S)
    fail_once(core, monkeypatch)
    for session in sessions:
        session.push(SILENCE)
    core.wait(FRAME_S)
    for session in sessions:
        end = end_of(taken(session))
        assert end.reason == "error"
        assert end.error == "the frame step failed: out of memory"
        assert not session.is_open
    figures = core.core.metrics.snapshot()
    assert (figures.live_sessions, figures.errors, figures.restarts, figures.healthy) == (0, 3, 1, True)
    again = [core.session() for _ in range(4)]
    for session in again:
        session.push(SILENCE)
    core.wait(FRAME_S)
    assert all(len(audio_of(taken(session))) == 1920 for session in again)


def test_who_waited_while_the_step_failed_gets_a_row_of_the_new_state(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = SteppedCore(checkpoint, capacity=1, waiting=1)
    session = core.session(SessionConfig(seed=3))
    session.push(NOISE[0])
    core.settle()
    saved = _snapshot(core, session)
    expected = core_continuation(checkpoint, saved)
    waiter = _Opening(core, saved)
    fail_once(core, monkeypatch)
    session.push(NOISE[1])
    core.settle()
    assert end_of(taken(session)).reason == "error"
    assert waiter.reply.exception(0) is None
    assert np.array_equal(waiter.continuation(), expected)


class _Opening:
    """A resumed conversation that has to wait for its row."""

    def __init__(self, core: SteppedCore, saved: bytes) -> None:
        self.core, self.events = core, EventQueue()
        config = SessionConfig(digital_silence=False)
        self.reply = core.request(Open(99, config, saved), self.events.put)

    def continuation(self) -> np.ndarray:
        for pcm in NOISE[2:5]:
            self.core.send(InputFrame(99, pcm, False, False, self.core.now))
            self.core.wait(FRAME_S)
        chunks = [self.events.get(0) for _ in range(3)]
        return np.concatenate([chunk.pcm for chunk in chunks if isinstance(chunk, AudioChunk)])


def core_continuation(checkpoint: Checkpoint, saved: bytes) -> np.ndarray:
    return _Opening(SteppedCore(checkpoint, capacity=1), saved).continuation()


def _snapshot(core: SteppedCore, session: Any) -> bytes:
    reply = session.take_snapshot()
    core.settle()
    return reply.result(10)


def test_three_failures_in_a_row_make_it_unhealthy(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = SteppedCore(small_checkpoint, capacity=1, waiting=1)
    fail_once(core, monkeypatch, times=99)
    unlucky = [core.session() for _ in range(2)]
    assert core.core.metrics.snapshot().healthy
    unlucky.append(core.session())
    assert not any(session.is_open for session in unlucky)
    assert not core.core.metrics.snapshot().healthy
    with pytest.raises(EngineUnhealthy, match="the last 3 frame steps failed"):
        core.session()


def test_an_engine_that_has_failed_tries_by_itself_and_serves_again(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = core.session(SessionConfig(seed=5, digital_silence=False))
    before.push(NOISE[0])
    core.wait(FRAME_S)
    expected = audio_of(taken(before))
    before.close()
    core.settle()
    fail_once(core, monkeypatch, times=5)  # three steps, then two probes
    for _ in range(3):
        core.session()
        core.wait(FRAME_S)
    core.wait(2.5)
    assert not core.core.metrics.snapshot().healthy
    with pytest.raises(EngineUnhealthy, match="tries by itself"):
        core.session()
    core.wait(5)
    assert core.core.metrics.snapshot().healthy
    after = core.session(SessionConfig(seed=5, digital_silence=False))
    after.push(NOISE[0])
    core.wait(FRAME_S)
    assert np.array_equal(audio_of(taken(after)), expected)


def test_a_step_that_succeeds_forgives_those_that_failed(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        fail_once(core, monkeypatch)
        unlucky = core.session()
        core.wait(0.3)
        assert not unlucky.is_open
        session = core.session()
        session.push(SILENCE)
        core.wait(FRAME_S)
        assert len(audio_of(taken(session))) == 1920
        session.close()
        core.settle()
    assert core.core.metrics.snapshot().healthy


def test_a_device_that_cannot_be_rebuilt_is_unhealthy_at_once(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise RuntimeError("device lost")

    session = core.session()
    fail_once(core, monkeypatch)
    monkeypatch.setattr(core.step, "rebuild", lost)
    core.wait(0.3)
    assert end_of(taken(session)).reason == "error"
    assert not core.core.metrics.snapshot().healthy
    with pytest.raises(EngineUnhealthy):
        core.session()


def test_a_row_that_cannot_be_moved_is_no_conversation_any_more(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(source: int, target: int) -> None:
        raise RuntimeError(f"cannot copy {source} to {target}")

    first, second = core.session(), core.session()
    core.settle()
    monkeypatch.setattr(core.step, "move_row", lost)
    first.close()
    core.settle()
    assert end_of(taken(first)).reason == "closed"
    assert end_of(taken(second)).reason == "error"
    assert core.core.metrics.snapshot().live_sessions == 0
    core.session()


def test_a_fault_on_the_hosts_side_of_one_conversation_ends_that_one(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = core.session(), core.session()
    core.settle()
    note = CallState.note_context

    def failing(line: CallState, steps: int, wall_s: float) -> None:
        if line.key == first.key:
            raise ValueError("a bug")
        note(line, steps, wall_s)

    monkeypatch.setattr(CallState, "note_context", failing)
    first.push(SILENCE)
    second.push(SILENCE)
    core.wait(FRAME_S)
    assert end_of(taken(first)).error == "the conversation failed: a bug"
    assert second.is_open
    assert len(audio_of(taken(second))) == 1920


def test_nonsense_is_refused_and_the_conversation_goes_on(core: SteppedCore) -> None:
    session = core.session()
    bad: list[Any] = [
        b"a",
        np.zeros((1, 2), np.float32),
        np.zeros(4),
        np.full(4, np.nan, np.float32),
        None,
        3,
    ]
    for pcm in bad:
        with pytest.raises(AudioError):
            session.push(pcm)
    for rate_hz in (0, -1, 10**9, 2.5, None):
        with pytest.raises(AudioError, match="a rate of"):
            session.push(SILENCE, rate_hz)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="at most an hour"):
        session.push(np.zeros(4001 * 3600, np.int16), 4000)
    for text in ("", "   ", "\ud800", "漢", None, 3):
        with pytest.raises(InputError):
            session.say(text).result(1)  # type: ignore[arg-type]
    session.push(SILENCE)
    core.wait(FRAME_S)
    assert len(audio_of(taken(session))) == 1920


def test_nothing_is_taken_before_the_beginning_or_after_the_end(core: SteppedCore) -> None:
    unopened = Session(50, SessionConfig(), core)
    with pytest.raises(SessionClosed, match="not open yet"):
        unopened.push(SILENCE)
    with pytest.raises(SessionClosed, match="not open yet"):
        unopened.finish()
    unopened.close()
    session = core.session()
    session.finish()
    with pytest.raises(SessionClosed, match="the input has ended"):
        session.push(SILENCE)
    session.finish()
    session.close()
    session.close()
    core.settle()
    for refused in (session.say("hello"), session.take_snapshot(), session.metrics()):
        with pytest.raises(SessionClosed, match="the conversation is over"):
            refused.result(1)
    with pytest.raises(SessionClosed, match="opened before"):
        session.open()
    closed = core.session()
    closed.close()
    core.settle()
    with pytest.raises(SessionClosed, match="the conversation is over"):
        closed.push(SILENCE)
    assert end_of(taken(closed)).reason == "closed"
    assert closed.next_event() is None


def test_commands_for_conversations_that_are_gone_are_ignored(core: SteppedCore) -> None:
    for command in (Close(5), Finish(5), NoteDropped(5, 1), InputFrame(5, SILENCE, False, True, 0.0)):
        core.send(command)
    core.settle()
    assert core.core.metrics.snapshot().restarts == 0
    assert isinstance(core.session().is_open, bool)
