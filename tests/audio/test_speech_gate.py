"""Digital silence where nothing is said, and what is said as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import Conversation
from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import FRAME_SAMPLES, frames_of
from moshi_agent.audio.speech_gate import SpeechGate
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.errors import AudioError
from moshi_agent.questions import sample_questions

LOUD = 10 ** (-55 / 20)


def _noise(count: int, level_dbfs: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(count) * 10 ** (level_dbfs / 20)
    return noise.astype(np.float32)


def _tone(start: int, end: int, frames: int, level: float = 0.1) -> np.ndarray:
    """Samples `start` to `end` of a stream are a tone, the rest is noise at -78 dBFS."""
    samples = _noise(frames * FRAME_SAMPLES, -78)
    samples[start:end] = level * np.cos(2 * np.pi * 300 / 24_000 * np.arange(end - start))
    return samples


def _gated(
    samples: np.ndarray, writes: set[int] = frozenset(), **gate: float
) -> tuple[np.ndarray, list[bool]]:
    process = SpeechGate(**gate).process
    frames = [process(frame, index in writes) for index, frame in enumerate(frames_of(samples))]
    return np.concatenate([frame.pcm for frame in frames]), [frame.is_open for frame in frames]


def test_silence_becomes_zero() -> None:
    """What is at -60 dBFS, whatever it is, is nothing."""
    out, is_open = _gated(_noise(10 * FRAME_SAMPLES, -60))
    assert not out.any() and is_open == [False] * 10


@pytest.mark.parametrize("start", [3840, 4000, 4080, 5700])
def test_it_opens_before_the_onset_and_closes_after_the_hold(start: int) -> None:
    """Zeros, 5 ms of fade, the tone as it is; after it 240 ms as they were, 5 ms of fade, zeros."""
    end = 12_000
    samples = _tone(start, end, frames=14)
    out, is_open = _gated(samples)
    onset_window = start // 240 * 240
    opens = max(onset_window - 120, start // FRAME_SAMPLES * FRAME_SAMPLES)
    closes = end + 24 * 240
    assert not out[:opens].any()
    assert np.array_equal(out[opens + 120 : closes], samples[opens + 120 : closes])
    assert (abs(out[closes : closes + 120]) <= abs(samples[closes : closes + 120])).all()
    assert out[closes : closes + 60].any() and not out[closes + 120 :].any()
    assert is_open == [2 <= frame <= closes // FRAME_SAMPLES for frame in range(14)]


def test_an_onset_at_the_very_beginning_of_a_frame_is_faded_in() -> None:
    """There is nothing before it that could still be changed; it does not click."""
    out, _ = _gated(_tone(3840, 12_000, frames=8, level=0.5))
    assert abs(np.diff(out[:4100])).max() < 0.05
    assert out[3840:3960].any()


def test_pauses_between_syllables_are_not_touched() -> None:
    """220 ms, the longest in what `tiny` says, pass; a longer one does not."""
    samples = _tone(0, 4800, frames=20)
    samples[4800 + 5280 : 20_000] = _tone(0, 20_000 - 10_080, frames=20)[: 20_000 - 10_080]
    out, _ = _gated(samples)
    assert np.array_equal(out[120:20_000], samples[120:20_000])
    shorter, _ = _gated(samples, hold_ms=100)
    assert not shorter[4800 + 2400 + 120 : 10_080 - 120].any()


def test_text_opens_it_and_keeps_it_open() -> None:
    """With a piece of text the frame passes at whatever level, and so does the hold after it."""
    samples = _noise(12 * FRAME_SAMPLES, -78)
    out, is_open = _gated(samples, writes={2, 5})
    assert is_open == [False] * 2 + [True] * 8 + [False] * 2  # the fade counts as open
    assert np.array_equal(
        out[2 * FRAME_SAMPLES + 120 : 9 * FRAME_SAMPLES], samples[2 * 1920 + 120 : 9 * 1920]
    )
    assert not out[: 2 * FRAME_SAMPLES].any() and not out[9 * FRAME_SAMPLES + 120 :].any()


_part = st.tuples(st.sampled_from([-90.0, -57.0, -53.0, -20.0]), st.integers(1, 6000))


@given(st.lists(_part, min_size=1, max_size=12), st.sets(st.integers(0, 20)), st.integers(0, 30))
def test_it_never_amplifies_and_changes_loud_samples_only_while_it_opens(
    parts: list[tuple[float, int]], writes: set[int], hold_windows: int
) -> None:
    """All over the floor passes, but for 5 ms at the beginning of a frame that opens the gate."""
    samples = np.concatenate([_noise(count, level, seed) for seed, (level, count) in enumerate(parts)])
    samples = np.concatenate(list(frames_of(samples)))
    out, is_open = _gated(samples, writes, hold_ms=10.0 * hold_windows)
    assert out.shape == samples.shape
    assert (abs(out) <= abs(samples)).all()
    loud = np.mean(samples.reshape(-1, 240).astype(np.float64) ** 2, axis=1) > LOUD**2 * 1.001
    changed = (out != samples).reshape(-1, 240)
    for window in np.flatnonzero(loud & changed.any(axis=1)):
        assert window % 8 == 0
        assert not changed[window, 120:].any()
    assert all(is_open[frame] for frame in writes if frame < len(is_open))


def test_a_restored_gate_goes_on() -> None:
    """In a hold, where all of the state matters."""
    frames = list(frames_of(_tone(2000, 5000, frames=10)))
    first, second = SpeechGate(), SpeechGate()
    for frame in frames[:4]:
        first.process(frame, False)
    second.load(json.loads(json.dumps(first.save())))
    for frame in frames[4:]:
        expected, got = first.process(frame, False), second.process(frame, False)
        assert np.array_equal(expected.pcm, got.pcm) and expected.is_open == got.is_open


@pytest.mark.parametrize(
    "frame", [np.zeros(1919, np.float32), np.zeros(1920), np.zeros((1, 1920), np.float32)]
)
def test_a_frame_of_another_form_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(AudioError, match="1920"):
        SpeechGate().process(frame, False)


@pytest.fixture
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_answers_of_tiny_are_left_as_they_are(one_thread: object) -> None:
    """From the first loud sample to the last, what is touched is under -48 dBFS: pauses. The rest is zero.

    Over all 28 sample questions it is 0.9 % of the samples on average and 8.1 % at most. These are two with
    long pauses, in one of which the gate closes.
    """
    checkpoint, questions = load_checkpoint("tiny", pack="auto"), sample_questions()
    for number in (4, 10):
        conversation = Conversation(checkpoint, greedy=True)
        frames = frames_of(read_audio(questions[number - 1].path), tail_s=4.0)
        replies = list(conversation.stream(frames))
        said = np.concatenate([reply.audio for reply in replies])
        out, is_open = _gated(said, {reply.frame for reply in replies if reply.text})
        loud = np.flatnonzero(abs(said) > LOUD)
        first, last = loud[0], loud[-1] + 1
        assert last - first > 24_000
        touched = said[first:last][out[first:last] != said[first:last]]
        assert len(touched) < 0.1 * (last - first) and np.abs(touched).max(initial=0) < 10 ** (-48 / 20)
        assert np.count_nonzero(np.diff(is_open)) <= 4  # opened twice at most
        assert not out[: first - FRAME_SAMPLES].any() and not out[last + 8 * FRAME_SAMPLES :].any()
