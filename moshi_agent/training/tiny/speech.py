"""Text to speech through the `flite` and `espeak-ng` command lines.

Every utterance comes back trimmed to its speech and at one level, so that what uses it decides where it
starts and how loud it is.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from moshi_agent.errors import ConfigError

SAMPLE_RATE_HZ = 24_000
FRAME_SAMPLES = 1920
NOMINAL_RMS_DB = -20.0
PEAK = 0.9
LOUD_DB = -40.0  # what counts as speech at the nominal level
TRIM_DB = -50.0
ESPEAK_WORDS_PER_MINUTE = 165

Audio = NDArray[np.float32]  # [samples], mono, 24 kHz, -1..1


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One way of speaking.

    `speed` and `tract` are factors: 1.2 speaks 20 % faster, or raises pitch and formants together by 20 %
    as a shorter vocal tract would. `pitch` is in hertz for flite and 0..99 for espeak-ng; None is the
    voice's own.
    """

    engine: Literal["flite", "espeak-ng"]
    name: str
    speed: float = 1.0
    pitch: int | None = None
    tract: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SpokenWord:
    """A word as written, with its place in the utterance, in seconds from the first sample."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class SpokenText:
    """An utterance with the times of its words."""

    text: str
    audio: Audio
    words: tuple[SpokenWord, ...]


ANSWER_VOICE = Voice(engine="flite", name="slt")
COUNTING_VOICE = Voice(engine="flite", name="kal16")  # flite's quickest; its words have the same phones
PAUSE = "pau"


def synthesise(text: str, voice: Voice) -> Audio:
    """Speech of `text`, float32 [samples] at 24 kHz, trimmed and at `NOMINAL_RMS_DB`.

    Raises ConfigError when the engine's command is missing or says nothing for this text.
    """
    return _trimmed(_levelled(_raw_speech(text, voice)))[0]


def synthesise_answer(text: str) -> SpokenText:
    """Speech of `text` in the answer voice, with the times of its words."""
    audio, first_sample = _trimmed(_levelled(_raw_speech(text, ANSWER_VOICE)))
    words = _word_times(text, ANSWER_VOICE, first_sample / SAMPLE_RATE_HZ, len(audio) / SAMPLE_RATE_HZ)
    return SpokenText(text=text, audio=audio, words=words)


def loud_span(audio: Audio, threshold_db: float = LOUD_DB) -> tuple[int, int]:
    """First and last sample above `threshold_db` dBFS; (0, -1) if there is none."""
    loud = np.flatnonzero(np.abs(audio) > 10 ** (threshold_db / 20))
    return (int(loud[0]), int(loud[-1])) if len(loud) else (0, -1)


def active_rms(audio: Audio) -> float:
    """Root mean square over the 20 ms pieces that are within 30 dB of the loudest one."""
    size = SAMPLE_RATE_HZ // 50
    pieces = np.resize(audio, max(len(audio) // size, 1) * size).reshape(-1, size)
    power = np.mean(pieces.astype(np.float64) ** 2, axis=1)
    return float(np.sqrt(power[power > power.max() * 1e-3].mean())) if power.max() > 0 else 0.0


def _raw_speech(text: str, voice: Voice) -> Audio:
    command = _flite_command(text, voice) if voice.engine == "flite" else _espeak_command(text, voice)
    wave = _run([*command, text])
    try:
        samples, rate_hz = cast("tuple[Audio, int]", sf.read(io.BytesIO(wave), dtype="float32"))
    except sf.LibsndfileError as error:
        raise ConfigError(f"{voice.engine} made no speech of {text!r} with voice {voice.name!r}") from error
    return _resampled(samples, rate_hz * voice.tract)


def _flite_command(text: str, voice: Voice) -> list[str]:
    command = ["flite", "-voice", voice.name, "-o", "/dev/stdout"]
    # Resampling by `tract` shortens the speech too, so the engine is asked for a slower pace.
    command += ["--setf", f"duration_stretch={voice.tract / voice.speed:.4f}"]
    if voice.pitch is not None:
        command += ["--setf", f"int_f0_target_mean={voice.pitch / voice.tract:.2f}"]
    return [*command, "-t"]


def _espeak_command(text: str, voice: Voice) -> list[str]:
    words_per_minute = round(ESPEAK_WORDS_PER_MINUTE * voice.speed / voice.tract)
    pitch = 50 if voice.pitch is None else voice.pitch
    return ["espeak-ng", "-v", voice.name, "-s", str(words_per_minute), "-p", str(pitch), "--stdout"]


def _run(command: list[str]) -> bytes:
    if shutil.which(command[0]) is None:
        raise ConfigError(f"the command {command[0]!r} is not installed; training speech is made with it")
    return subprocess.run(command, capture_output=True, check=True).stdout


def _resampled(samples: Audio, rate_hz: float) -> Audio:
    return cast("Audio", soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)).astype(np.float32)


def _levelled(audio: Audio) -> Audio:
    gain = 10 ** (NOMINAL_RMS_DB / 20) / max(active_rms(audio), 1e-6)
    return audio * np.float32(min(gain, PEAK / max(float(np.abs(audio).max()), 1e-6)))


def _trimmed(audio: Audio) -> tuple[Audio, int]:
    """The speech without the silence around it, faded at its ends, and the sample it started at."""
    first, last = loud_span(audio, TRIM_DB)
    start = max(first - SAMPLE_RATE_HZ // 200, 0)
    speech = audio[start : last + SAMPLE_RATE_HZ // 50].copy()
    fade_in, fade_out = SAMPLE_RATE_HZ // 500, SAMPLE_RATE_HZ // 100
    speech[:fade_in] *= np.linspace(0, 1, fade_in, dtype=np.float32)[: len(speech)]
    speech[-fade_out:] *= np.linspace(1, 0, fade_out, dtype=np.float32)[-len(speech) :]
    return speech, start


def _segments(text: str, voice: Voice) -> list[tuple[str, float]]:
    """Phones with their end times in seconds, pauses included."""
    printed = _run(["flite", "-voice", voice.name, "-psdur", "-t", text, "none"]).decode()
    pairs = (item.rsplit(":", 1) for item in printed.split() if ":" in item)
    return [(phone, float(end)) for phone, end in pairs]


def _word_times(text: str, voice: Voice, offset_s: float, length_s: float) -> tuple[SpokenWord, ...]:
    """Word times from the phones, of which each word takes its share in turn."""
    tokens = text.split()
    segments = _segments(text, voice)
    starts = [0.0, *(end for _, end in segments)]
    spoken = [i for i, (phone, _) in enumerate(segments) if phone != PAUSE]
    counts = _phone_counts(tokens)
    if sum(counts) != len(spoken) or min(counts) < 1:
        raise ConfigError(f"cannot tell the words of {text!r} apart; write numbers and signs as plain words")
    words: list[SpokenWord] = []
    before = 0
    for token, count in zip(tokens, counts, strict=True):
        start = starts[spoken[before]] - offset_s
        end = starts[spoken[before + count - 1] + 1] - offset_s
        words.append(SpokenWord(word=token, start=max(start, 0.0), end=min(end, length_s)))
        before += count
    return tuple(words)


def _phone_counts(tokens: list[str]) -> list[int]:
    """How many phones each word has: those by which the text up to it outgrows the text before it."""
    upto = [0]
    for count in range(1, len(tokens) + 1):
        phones = _segments(" ".join(tokens[:count]), COUNTING_VOICE)
        upto.append(sum(phone != PAUSE for phone, _ in phones))
    return [after - before for before, after in pairwise(upto)]
