"""Live conversations on a clock that the test moves: stalls, bursts, and a device that falls behind."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moshi_agent import (
    AudioChunk,
    BacklogFull,
    Event,
    InputResumed,
    InputSkipped,
    InputStalled,
    OutputDropped,
    Session,
    SessionConfig,
)
from moshi_agent.checkpoint import Checkpoint
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, audio_of, kinds_of, taken


def speak(core: SteppedCore, session: Session, frames: int, pcm: NDArray[np.float32] = SILENCE) -> None:
    """Brings a frame every 80 ms."""
    for _ in range(frames):
        session.push(pcm)
        core.wait(FRAME_S)


def chunks_in(events: list[Event]) -> int:
    return len(kinds_of(events, AudioChunk))


def test_a_frame_out_for_each_frame_in(core: SteppedCore) -> None:
    session = core.session()
    speak(core, session, 6)
    assert [event.frame for event in kinds_of(taken(session), AudioChunk)] == list(range(6))


def test_missing_input_is_replaced_by_silence_until_it_comes_again(core: SteppedCore) -> None:
    session = core.session(SessionConfig(seed=1, stall_ms=200))
    speak(core, session, 3)
    taken(session)
    core.wait(0.19)
    assert taken(session) == []
    core.wait(0.30)
    stalled = taken(session)
    assert isinstance(stalled[0], InputStalled)
    assert len(kinds_of(stalled, InputStalled)) == 1
    silences = chunks_in(stalled)
    assert 3 <= silences <= 4
    speak(core, session, 2)
    resumed = taken(session)
    (event,) = kinds_of(resumed, InputResumed)
    assert isinstance(event, InputResumed)
    assert event.silent_frames == silences
    assert core.core.metrics.snapshot().stalled_frames == silences


def test_after_a_burst_silent_input_is_skipped_and_the_backlog_is_gone(core: SteppedCore) -> None:
    session = core.session()
    speak(core, session, 2)
    taken(session)
    for _ in range(12):  # frames that come all at once, one chunk each
        session.push(SILENCE)
    core.settle()
    events = taken(session)
    skipped = sum(event.frames for event in events if isinstance(event, InputSkipped))
    assert skipped + chunks_in(events) == 12
    assert skipped >= 9
    assert session.backlog_s == 0
    assert core.core.metrics.snapshot().skipped_frames == skipped


def test_speech_that_comes_in_a_burst_is_all_heard(core: SteppedCore, thanks: NDArray[np.float32]) -> None:
    session = core.session()
    speak(core, session, 2)
    taken(session)
    for start in range(0, 12 * 1920, 1920):
        session.push(thanks[start + 1920 : start + 3840])
    core.settle()
    events = taken(session)
    skipped = sum(event.frames for event in events if isinstance(event, InputSkipped))
    assert chunks_in(events) + skipped == 12
    assert not np.any(
        np.abs(thanks[1920 : 1920 * (1 + skipped)]) > 0.002
    )  # the silence before the first word
    assert np.any(np.abs(thanks[1920 * (1 + skipped) :][:1920]) > 0.002)


def test_what_is_sent_as_one_chunk_is_not_late(core: SteppedCore) -> None:
    session = core.session()
    session.push(np.zeros(12 * 1920, np.float32))
    core.wait(12 * FRAME_S)
    events = taken(session)
    assert chunks_in(events) == 12
    assert not kinds_of(events, InputSkipped, InputStalled)


def test_output_that_ran_ahead_of_the_player_loses_silence_until_it_is_back(checkpoint: Checkpoint) -> None:
    core = SteppedCore(checkpoint, capacity=1)
    session = core.session(SessionConfig(seed=1, backlog_limit_ms=10_000))
    speak(core, session, 4)
    taken(session)
    core.now += 0.8  # the device stands still; ten frames come meanwhile
    for _ in range(10):
        session.push(SILENCE)
    core.settle()
    events = taken(session)
    dropped = kinds_of(events, OutputDropped)
    lost = sum(event.samples for event in dropped if isinstance(event, OutputDropped))
    assert all(isinstance(event, OutputDropped) and event.was_silent for event in dropped)
    assert lost + len(audio_of(events)) == 10 * 1920
    assert len(audio_of(events)) <= 0.121 * 24_000
    assert core.core.metrics.snapshot().dropped_silent_samples == lost
    core.wait(FRAME_S)
    speak(core, session, 4)
    assert len(audio_of(taken(session))) >= 4 * 1920 - 0.04 * 24_000


def test_input_beyond_the_backlog_is_refused_whole(core: SteppedCore) -> None:
    session = core.session()
    core.settle()
    for _ in range(9):
        session.push(np.zeros(24_000, np.float32))
    with pytest.raises(BacklogFull, match=r"9\.0 s of input wait .* more than 10 s"):
        session.push(np.zeros(36_000, np.float32))
    assert session.backlog_s == pytest.approx(8.96)
    session.push(np.zeros(12_000, np.float32))
    core.settle()
    assert session.backlog_s == 0


def test_a_consumer_that_reads_nothing_loses_the_oldest_audio_and_is_counted(core: SteppedCore) -> None:
    session = core.session(SessionConfig(seed=1, queue_s=0.4, digital_silence=False))
    speak(core, session, 12)
    figures = session.metrics().result()
    events = taken(session)
    (report,) = kinds_of(events, OutputDropped)
    assert isinstance(report, OutputDropped)
    assert not report.was_silent
    assert report.samples == 7 * 1920
    assert [event.frame for event in kinds_of(events, AudioChunk)] == [7, 8, 9, 10, 11]
    assert figures.dropped_audible_samples == report.samples
    assert core.core.metrics.snapshot().dropped_audible_samples == report.samples
    assert figures.frames == 12


def test_a_live_conversation_ends_after_its_tail(core: SteppedCore) -> None:
    session = core.session(SessionConfig(seed=1, tail_ms=400, longest_tail_ms=800))
    speak(core, session, 3)
    session.finish()
    core.wait(2.0)
    events = taken(session)
    assert not session.is_open
    assert 3 + 5 <= chunks_in(events) <= 3 + 10
    assert not kinds_of(events, InputStalled)


def test_files_lose_nothing_and_hear_nothing_that_is_not_there(core: SteppedCore) -> None:
    session = core.session(SessionConfig(seed=1, live=False, tail_ms=0, longest_tail_ms=0, queue_s=0.1))
    for _ in range(20):
        session.push(SILENCE)
    core.wait(3.0)
    session.push(SILENCE)
    session.finish()
    core.wait(0.1)
    events = taken(session)
    assert chunks_in(events) == 21
    assert not kinds_of(events, InputSkipped, InputStalled, OutputDropped)
    assert not session.is_open
