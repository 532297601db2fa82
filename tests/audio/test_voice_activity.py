"""Where the user speaks, on the spoken questions that ship with the package."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import FRAME_SAMPLES, frames_of
from moshi_agent.audio.voice_activity import Activity, VoiceActivity
from moshi_agent.errors import AudioError
from moshi_agent.questions import sample_questions

FRAME_S = 0.08
BEFORE_S, AFTER_S = 2.0, 2.0


def _levels_dbfs(samples: np.ndarray) -> np.ndarray:
    """Of every 20 ms."""
    windows = samples[: len(samples) // 480 * 480].reshape(-1, 480).astype(np.float64)
    return 10 * np.log10(np.mean(windows**2, axis=1) + 1e-12)


def _noise(count: int, level_dbfs: float) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count) * 10 ** (level_dbfs / 20)


def _hear(samples: np.ndarray) -> list[Activity]:
    activity = VoiceActivity()
    return [activity.hear(frame) for frame in frames_of(samples.astype(np.float32))]


def _turns_s(heard: list[Activity]) -> list[tuple[float, float]]:
    """When the turns are known to have started and stopped: at the ends of frames."""
    speaking = np.array([False, *(activity.speaking for activity in heard), False])
    changes = np.flatnonzero(speaking[1:] != speaking[:-1])
    return [(float(start + 1) * FRAME_S, float(stop + 1) * FRAME_S) for start, stop in changes.reshape(-1, 2)]


def _spoken(question: int, level_dbfs: float) -> tuple[np.ndarray, float, float]:
    """A question between silences with its loud parts at this level, and when it starts and ends."""
    samples = read_audio(sample_questions()[question].path).astype(np.float64)
    samples *= 10 ** ((level_dbfs - np.percentile(_levels_dbfs(samples), 95)) / 20)
    samples = np.concatenate([np.zeros(round(24_000 * BEFORE_S)), samples, np.zeros(round(24_000 * AFTER_S))])
    loud = np.flatnonzero(_levels_dbfs(samples) > level_dbfs - 30)
    return samples, float(loud[0]) * 0.02, float(loud[-1] + 1) * 0.02


@pytest.mark.parametrize("level_dbfs", [-10, -20, -30, -40])
@pytest.mark.parametrize("noise_dbfs", [None, -60, -50])
def test_each_question_is_one_turn(level_dbfs: float, noise_dbfs: float | None) -> None:
    """Loud and soft, in silence and in noise: known at most 0.6 s after its start, 0.65 s after its end."""
    for question in range(0, len(sample_questions()), 3):
        samples, starts_s, ends_s = _spoken(question, level_dbfs)
        if noise_dbfs is not None:
            samples = samples + _noise(len(samples), noise_dbfs)
        turns = _turns_s(_hear(samples))
        assert len(turns) == 1
        assert 0 < turns[0][0] - starts_s < 0.6
        assert 0.25 < turns[0][1] - ends_s < 0.65


@pytest.mark.parametrize("level_dbfs", [-20, -30, -40])
def test_no_part_of_a_word_is_called_silent(level_dbfs: float) -> None:
    """Not even the unvoiced onsets that webrtcvad misses, down to 25 dB below the loud parts."""
    for question in range(len(sample_questions())):
        samples, _, _ = _spoken(question, level_dbfs)
        heard = _hear(samples)
        loudest = [_levels_dbfs(frame).max() for frame in frames_of(samples.astype(np.float32))]
        silent = np.array([activity.silent for activity in heard])
        assert silent.any()
        assert np.array(loudest)[silent].max() < level_dbfs - 24


def test_the_pause_after_a_word_is_not_silent_and_the_one_after_a_turn_is() -> None:
    """Nothing is left out between words; all of it once the turn is over."""
    samples, _, ends_s = _spoken(0, -20)
    heard = _hear(samples)
    for index, activity in enumerate(heard):
        spoke_before = index > 0 and heard[index - 1].speaking
        assert not (activity.silent and (activity.voiced or activity.speaking or spoke_before))
        if ends_s <= (index + 1) * FRAME_S < ends_s + 0.4:
            assert not activity.silent
        if index * FRAME_S > ends_s + 0.7:
            assert activity == Activity(voiced=False, speaking=False, silent=True)


def test_digital_silence_is_silent_from_the_first_frame() -> None:
    assert _hear(np.zeros(24_000 * 3)) == [Activity(voiced=False, speaking=False, silent=True)] * 38


@pytest.mark.parametrize("level_dbfs", [-70, -60, -50, -40])
def test_steady_noise_is_no_turn_and_after_three_seconds_silent(level_dbfs: float) -> None:
    heard = _hear(_noise(24_000 * 8, level_dbfs))
    assert not any(activity.speaking for activity in heard)
    assert all(activity.silent for activity in heard[38:])


@pytest.mark.parametrize("noise_dbfs", [None, -60])
def test_clicks_are_no_turn_and_not_silent_either(noise_dbfs: float | None) -> None:
    """10 ms at -20 dBFS, once a second."""
    samples = np.zeros(24_000 * 8) if noise_dbfs is None else _noise(24_000 * 8, noise_dbfs)
    for second in range(1, 8):
        samples[24_000 * second :][:240] += _noise(240, -20)
    heard = _hear(samples)
    assert not any(activity.speaking for activity in heard)
    for second in range(1, 8):
        assert not heard[int(second / FRAME_S)].silent


def test_a_voice_is_heard_in_the_frame_it_begins_in() -> None:
    """The resampler adds no delay to speak of: a tone complex in the last 20 ms of a frame shows."""
    frame = np.zeros(FRAME_SAMPLES)
    time_s = np.arange(480) / 24_000
    frame[-480:] = sum(0.1 * np.sin(2 * np.pi * 150 * k * time_s) for k in range(1, 12))
    heard = _hear(np.concatenate([np.zeros(FRAME_SAMPLES * 10), frame]))
    assert [activity.voiced for activity in heard] == [False] * 10 + [True]


def test_a_restored_turn_goes_on() -> None:
    """In the middle of a question: no turn ends or starts by it, and the end comes at most a frame sooner."""
    samples, starts_s, _ = _spoken(5, -20)
    frames = list(frames_of(samples.astype(np.float32)))
    middle = round((starts_s + 0.5) / FRAME_S)
    whole, restored = VoiceActivity(), VoiceActivity()
    for frame in frames[:middle]:
        whole.hear(frame)
    assert whole.save()["speaking"]
    restored.load(json.loads(json.dumps(whole.save())))
    assert restored.save() == whole.save()
    rest, again = ([one.hear(frame) for frame in frames[middle:]] for one in (whole, restored))
    (whole_turn,), (restored_turn,) = _turns_s(rest), _turns_s(again)
    assert restored_turn[0] == whole_turn[0] == pytest.approx(FRAME_S)
    assert 0 <= whole_turn[1] - restored_turn[1] < 1.01 * FRAME_S


def test_what_is_no_audio_or_no_mode_is_refused() -> None:
    for frame in (np.zeros(FRAME_SAMPLES), np.zeros(960, np.float32), np.zeros((1, 1920), np.float32)):
        with pytest.raises(AudioError, match="float32"):
            VoiceActivity().hear(frame)
    with pytest.raises(ValueError, match="aggressiveness"):
        VoiceActivity(aggressiveness=4)
