"""Text to speech: the neural voice that answers, and the commands of Flite, eSpeak NG, Festival and Pico.

Every utterance comes back trimmed to its speech and at one level, so that what uses it decides where it
starts and how loud it is.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, cast
from xml.sax.saxutils import escape

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.piper_voice import Phone, PiperSpeaker
from moshi_agent.training.tiny.word_times import SpokenWord, word_times

SAMPLE_RATE_HZ = 24_000
FRAME_SAMPLES = 1920
NOMINAL_RMS_DB = -20.0
PEAK = 0.9
LOUD_DB = -40.0  # what counts as speech at the nominal level
TRIM_DB = -50.0
ESPEAK_WORDS_PER_MINUTE = 165
RECORDINGS = Path("/usr/share/asterisk/sounds")

Audio = NDArray[np.float32]  # [samples], mono, 24 kHz, -1..1


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One way of speaking.

    `speed` and `tract` are factors: 1.2 speaks 20 % faster, or raises pitch and formants together by 20 %
    as a shorter vocal tract would. `pitch` is in hertz for flite, 0..99 for espeak-ng and a percentage for
    pico; None is the voice's own. A lively piper voice says a text another way each time, and its pitch is
    its own. So is the speed of festival. A recording has the name of its file below `RECORDINGS`, and is
    what it is.
    """

    engine: Literal["flite", "espeak-ng", "piper", "festival", "pico", "recorded"]
    name: str
    speed: float = 1.0
    pitch: int | None = None
    tract: float = 1.0
    lively: bool = False


@dataclass(frozen=True, kw_only=True)
class SpokenText:
    """An utterance with the times of its words and phones, as far as its engine tells them."""

    text: str
    audio: Audio
    words: tuple[SpokenWord, ...] = ()
    phones: tuple[Phone, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """Speech at 24 kHz as it comes from an engine; the phones' times count from its first sample."""

    audio: Audio
    phones: tuple[Phone, ...] = ()


ANSWER_VOICE = Voice(engine="piper", name="joe", speed=0.92)


class Synthesiser:
    """All the engines; the neural voice is loaded when it first speaks."""

    def speak(self, text: str, voice: Voice, *, phones: bool = False) -> SpokenText:
        """Speech of `text`, float32 [samples] at 24 kHz, trimmed and at `NOMINAL_RMS_DB`.

        Args:
            phones: the times of the phones too; only piper and flite tell them.

        Raises:
            ConfigError: the engine is missing or says nothing for this text.
        """
        raw = self._raw(text, voice, phones)
        audio, first = _trimmed(_levelled(raw.audio))
        moved = [replace(phone, end=phone.end - first / SAMPLE_RATE_HZ) for phone in raw.phones]
        return SpokenText(text=text, audio=audio, phones=tuple(moved))

    def answer(self, text: str) -> SpokenText:
        """Speech of `text` in the answer voice, with the times of its words. Raises ConfigError likewise."""
        spoken = self.speak(text, ANSWER_VOICE)
        length_s = len(spoken.audio) / SAMPLE_RATE_HZ
        words = word_times(text, spoken.phones, self._piper.word_lengths(text), length_s)
        return replace(spoken, words=words)

    @cached_property
    def _piper(self) -> PiperSpeaker:
        return PiperSpeaker()

    def _raw(self, text: str, voice: Voice, phones: bool) -> _Raw:
        if voice.engine == "piper":
            said = self._piper.speak(text, slowness=voice.tract / voice.speed, lively=voice.lively)
            audio = _resampled(said.audio, said.rate_hz * voice.tract)
            return _Raw(audio=audio, phones=_scaled(said.phones, voice.tract))
        wave = _wave(text, voice)
        try:
            samples, rate_hz = cast("tuple[Audio, int]", sf.read(io.BytesIO(wave), dtype="float32"))
        except sf.LibsndfileError as error:
            message = f"{voice.engine} made no speech of {text!r} with voice {voice.name!r}"
            raise ConfigError(message) from error
        told = _flite_phones(text, voice) if phones and voice.engine == "flite" else ()
        return _Raw(audio=_resampled(samples, rate_hz * voice.tract), phones=told)


def synthesise(text: str, voice: Voice) -> Audio:
    """As `Synthesiser.speak`, for a single utterance."""
    return Synthesiser().speak(text, voice).audio


def synthesise_answer(text: str) -> SpokenText:
    """As `Synthesiser.answer`, for a single utterance."""
    return Synthesiser().answer(text)


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


def _flite_command(text: str, voice: Voice) -> list[str]:
    return ["flite", "-voice", voice.name, "-o", "/dev/stdout", *_flite_settings(voice), "-t", text]


def _flite_settings(voice: Voice) -> list[str]:
    # Resampling by `tract` shortens the speech too, so the engine is asked for a slower pace.
    settings = ["--setf", f"duration_stretch={voice.tract / voice.speed:.4f}"]
    if voice.pitch is not None:
        settings += ["--setf", f"int_f0_target_mean={voice.pitch / voice.tract:.2f}"]
    return settings


def _flite_phones(text: str, voice: Voice) -> tuple[Phone, ...]:
    command = ["flite", "-voice", voice.name, "-psdur", *_flite_settings(voice), "-t", text, "none"]
    pairs = (item.rsplit(":", 1) for item in _run(command).decode().split() if ":" in item)
    return _scaled(tuple(Phone(name=name, end=float(end)) for name, end in pairs), voice.tract)


def _espeak_command(text: str, voice: Voice) -> list[str]:
    words_per_minute = round(ESPEAK_WORDS_PER_MINUTE * voice.speed / voice.tract)
    pitch = 50 if voice.pitch is None else voice.pitch
    settings = ["-v", voice.name, "-s", str(words_per_minute), "-p", str(pitch)]
    return ["espeak-ng", *settings, "--stdout", text]


def _festival(text: str, voice: Voice) -> bytes:
    """The wave file that festival's `text2wave` makes of `text`."""
    with tempfile.TemporaryDirectory() as folder:
        written, wave = Path(folder) / "text.txt", Path(folder) / "speech.wav"
        written.write_text(text + "\n")
        _run(["text2wave", str(written), "-o", str(wave), "-eval", f"(voice_{voice.name})"])
        return wave.read_bytes()


def _pico(text: str, voice: Voice) -> bytes:
    """The wave file that SVOX Pico's `pico2wave` makes of `text`; the name of a voice is its language."""
    speed, pitch = round(100 * voice.speed / voice.tract), 100 if voice.pitch is None else voice.pitch
    marked = f"<speed level='{speed}'><pitch level='{pitch}'>{escape(text)}</pitch></speed>"
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "speech.wav"
        _run(["pico2wave", "-l", voice.name, "-w", str(wave), marked])
        return wave.read_bytes()


def _wave(text: str, voice: Voice) -> bytes:
    """The wave file of an engine that makes one."""
    if voice.engine == "festival":
        return _festival(text, voice)
    if voice.engine == "pico":
        return _pico(text, voice)
    if voice.engine == "recorded":
        path = RECORDINGS / f"{voice.name}.wav"
        if not path.is_file():
            raise ConfigError(f"there is no {path}; it is in Debian's asterisk-core-sounds-en-wav")
        return path.read_bytes()
    return _run(_flite_command(text, voice) if voice.engine == "flite" else _espeak_command(text, voice))


def _run(command: list[str]) -> bytes:
    if shutil.which(command[0]) is None:
        raise ConfigError(f"the command {command[0]!r} is not installed; training speech is made with it")
    return subprocess.run(command, capture_output=True, check=True).stdout


def _scaled(phones: tuple[Phone, ...], tract: float) -> tuple[Phone, ...]:
    return tuple(replace(phone, end=phone.end / tract) for phone in phones)


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
