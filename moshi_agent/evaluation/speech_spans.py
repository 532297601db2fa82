"""Where somebody speaks, by Silero's voice activity detection, which the benchmark uses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
import torch

from moshi_agent.audio.framing import Samples
from moshi_agent.errors import AudioError, ConfigError
from moshi_agent.evaluation.sinc_resampling import resample

RATE_HZ = 16_000  # that the detection works at


class Span(NamedTuple):
    """Holds when something begins and ends, in seconds."""

    start_s: float
    end_s: float

    @property
    def lasts_s(self) -> float:
        """Returns its length."""
        return self.end_s - self.start_s


class SpeechDetector:
    """Finds speech in mono audio at 16 kHz.

    Raises:
        ConfigError: Silero's package is not installed.
    """

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        try:
            import silero_vad  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ConfigError(
                "the measures of sound need the package silero-vad: pip install 'moshi-agent[evaluate]'"
            ) from error
        finally:
            torch.set_num_threads(threads)  # the package sets it to 1 for the whole program
        self._package: Any = silero_vad
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the way in which the package loads its model
            self._model: Any = silero_vad.load_silero_vad()

    def spans(self, samples: Samples) -> list[Span]:
        """Finds speech in [N] at 16 kHz, to the sample."""
        found = self._package.get_speech_timestamps(torch.from_numpy(samples), self._model)
        return [Span(one["start"] / RATE_HZ, one["end"] / RATE_HZ) for one in found]

    def rounded_spans(self, samples: Samples) -> list[Span]:
        """Finds speech in [N] at 16 kHz, to a tenth of a second."""
        found = self._package.get_speech_timestamps(
            torch.from_numpy(samples), self._model, return_seconds=True
        )
        return [Span(one["start"], one["end"]) for one in found]


def read_mono(path: Path, channel: int = 0) -> tuple[Samples, int]:
    """Reads a file as it is: [N] of one channel, and its rate. Raises AudioError where there is none."""
    try:
        samples, rate_hz = sf.read(path, dtype="float32", always_2d=True)
    except (OSError, sf.LibsndfileError) as error:
        raise AudioError(f"{path} cannot be read as audio: {error}") from error
    if not len(samples):
        raise AudioError(f"{path} has no samples in it")
    if channel >= samples.shape[1]:
        raise AudioError(f"{path} has one channel; needed are two, the bot left and the user right")
    return np.ascontiguousarray(samples[:, channel], dtype=np.float32), int(rate_hz)


def at_detector_rate(samples: Samples, rate_hz: int) -> Samples:
    """Brings [N] to 16 kHz, as the benchmark does."""
    return resample(samples, rate_hz, RATE_HZ)
