"""Finds which of the reference answers a stretch of the bot's sound is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ, Audio

HOP = SAMPLE_RATE_HZ // 25  # 40 ms
WINDOW = 1024
BANDS = 40
BAND_RANGE_HZ = (80.0, 7000.0)
FLOOR_DB = -45.0  # what is quieter is the codec's, not the voice's

Spectrum = NDArray[np.float32]  # [pieces, BANDS], dB


def log_mel(audio: Audio) -> Spectrum:
    """Computes band levels in dB, none below `FLOOR_DB` under the loudest; [len // HOP + 1, BANDS]."""
    padded = np.pad(audio, (WINDOW // 2, WINDOW // 2 + HOP))
    count = len(audio) // HOP + 1
    places = HOP * np.arange(count)[:, None] + np.arange(WINDOW)
    power = np.abs(np.fft.rfft(padded[places] * np.hanning(WINDOW), axis=1)) ** 2
    level_db = 10 * np.log10(power @ _mel_bands().T + 1e-12)
    return np.maximum(level_db - level_db.max(), FLOOR_DB).astype(np.float32)


class Matcher:
    """Compares sounds with references by dynamic time warping of their spectra."""

    def __init__(self, references: Sequence[Audio]) -> None:
        self._spectra = [log_mel(reference) for reference in references]
        self._lengths = np.array([len(spectrum) for spectrum in self._spectra])
        self._padded = np.zeros((len(references), int(self._lengths.max()), BANDS), np.float32)
        for index, spectrum in enumerate(self._spectra):
            self._padded[index, : len(spectrum)] = spectrum

    def distances(self, audio: Audio) -> NDArray[np.float64]:
        """Measures how far `audio` is from each reference, [references], in dB per band on the best path."""
        spectrum = log_mel(audio)
        local = np.stack([np.abs(spectrum[:, None] - one).mean(2) for one in self._padded])
        # Both speeds count alike: a step along one axis costs once, along the diagonal twice.
        total = _warped(local.astype(np.float64))
        ends = total[np.arange(len(self._lengths)), -1, self._lengths - 1]
        return ends / (len(spectrum) + self._lengths)

    def nearest(self, audio: Audio) -> int:
        """Returns the index of the reference that `audio` is most like."""
        return int(self.distances(audio).argmin())


def _warped(local: NDArray[np.float64]) -> NDArray[np.float64]:
    """Costs of the best paths from the first corner, [R, I, J] of local costs -> [R, I, J]."""
    total = np.full((local.shape[0], local.shape[1] + 1, local.shape[2] + 1), np.inf)
    total[:, 0, 0] = 0
    for diagonal in range(local.shape[1] + local.shape[2] - 1):
        i = np.arange(max(0, diagonal - local.shape[2] + 1), min(diagonal, local.shape[1] - 1) + 1)
        j = diagonal - i
        here = local[:, i, j]
        aside = np.minimum(total[:, i, j + 1], total[:, i + 1, j]) + here
        total[:, i + 1, j + 1] = np.minimum(aside, total[:, i, j] + 2 * here)
    return total[:, 1:, 1:]


@cache
def _mel_bands() -> NDArray[np.float64]:
    """Triangles of equal width in mel, [BANDS, WINDOW // 2 + 1]."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in BAND_RANGE_HZ)
    edges_hz = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins_hz = np.arange(WINDOW // 2 + 1) * SAMPLE_RATE_HZ / WINDOW
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    return np.maximum(np.minimum(rising, falling), 0)
