"""Loudness of speech in LUFS, by ITU-R BS.1770-4 for one channel.

Its two filters are the standard's, which gives them at 48 kHz, from their analog forms: so they hold at any
rate. `pyloudnorm`, which NVIDIA uses, is within 0.1 LU of it for speech. It is not used here because it
brings scipy, which nothing else in the core needs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moshi_agent.audio.framing import Samples
from moshi_agent.errors import AudioError

_BLOCK_S = 0.4
_HOP_S = 0.1
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_OFFSET_LUFS = -0.691
_SETTLED_S = 1.0  # after which nothing is left of what the filters have heard


def at_loudness(audio: Samples, wanted_lufs: float, sample_rate_hz: int) -> Samples:
    """Makes audio, [N], louder or softer until its loudness is as wanted.

    Raises:
        AudioError: as `loudness_lufs`.
    """
    gain_db = wanted_lufs - loudness_lufs(audio, sample_rate_hz)
    return (audio * 10 ** (gain_db / 20)).astype(np.float32)


def loudness_lufs(audio: Samples, sample_rate_hz: int) -> float:
    """Measures the integrated loudness of [N] samples.

    Raises:
        AudioError: less than 0.4 s, or silence.
    """
    block, hop = round(_BLOCK_S * sample_rate_hz), round(_HOP_S * sample_rate_hz)
    if len(audio) < block:
        raise AudioError(f"{len(audio) / sample_rate_hz:.2f} s of audio; accepted: at least {_BLOCK_S} s")
    weighted = _k_weighted(audio.astype(np.float64), sample_rate_hz)
    sums = np.concatenate([[0.0], np.cumsum(weighted**2)])
    starts = np.arange(0, len(audio) - block + 1, hop)
    powers = (sums[starts + block] - sums[starts]) / block  # [blocks]
    loud = powers[powers > _power(_ABSOLUTE_GATE_LUFS)]
    if not len(loud):
        raise AudioError("audio without anything to be heard in it; accepted: a voice")
    loud = loud[loud > loud.mean() * 10 ** (_RELATIVE_GATE_LU / 10)]
    return _OFFSET_LUFS + 10 * math.log10(float(loud.mean()))


def _power(lufs: float) -> float:
    return 10 ** ((lufs - _OFFSET_LUFS) / 10)


def _k_weighted(audio: NDArray[np.float64], sample_rate_hz: int) -> NDArray[np.float64]:
    """The head's high shelf, then the high pass, by their frequency responses. [N] -> [N]."""
    length = len(audio) + round(_SETTLED_S * sample_rate_hz)
    z = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)  # z^-1 of every frequency
    response = np.ones_like(z)
    for numerator, denominator in (_shelf(sample_rate_hz), _high_pass(sample_rate_hz)):
        response *= _polynomial(numerator, z) / _polynomial(denominator, z)
    return np.fft.irfft(np.fft.rfft(audio, length) * response, length)[: len(audio)]


Coefficients = tuple[float, float, float]


def _polynomial(coefficients: Coefficients, z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    a, b, c = coefficients
    return a + z * (b + z * c)


def _shelf(sample_rate_hz: int) -> tuple[Coefficients, Coefficients]:
    """4 dB more above 1.7 kHz; numerator and denominator."""
    k, q, high = math.tan(math.pi * 1681.974450955533 / sample_rate_hz), 0.7071752369554196, 10**0.19999219
    band = high**0.4996667741545416
    numerator = high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k
    return numerator, _denominator(k, q)


def _high_pass(sample_rate_hz: int) -> tuple[Coefficients, Coefficients]:
    """Nothing below 38 Hz; numerator and denominator."""
    k, q = math.tan(math.pi * 38.13547087602444 / sample_rate_hz), 0.5003270373238773
    denominator = _denominator(k, q)
    return (denominator[0], -2 * denominator[0], denominator[0]), denominator


def _denominator(k: float, q: float) -> Coefficients:
    return 1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k
