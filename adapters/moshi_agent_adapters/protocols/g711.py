"""The telephone's 8-bit codes of a sample, mu-law and A-law (ITU-T G.711)."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["mu", "a"]


def decode(data: bytes, law: Law) -> NDArray[np.int16]:
    """Returns the samples [N] of N bytes."""
    return _levels(law)[np.frombuffer(data, np.uint8)]


def encode(pcm: NDArray[np.int16], law: Law) -> bytes:
    """Returns the bytes of samples [N]: for each the code whose level is nearest."""
    return _codes(law)[pcm.astype(np.int32) + 32768].tobytes()


@functools.cache
def _levels(law: Law) -> NDArray[np.int16]:
    """[256] what each code stands for."""
    codes = np.arange(256)
    if law == "mu":
        inverted = codes ^ 0xFF
        exponent, mantissa = inverted >> 4 & 7, inverted & 15
        magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84
        return np.where(inverted & 0x80, -magnitude, magnitude).astype(np.int16)
    toggled = codes ^ 0x55
    exponent, mantissa = toggled >> 4 & 7, toggled & 15
    magnitude = np.where(
        exponent, (mantissa << 4) + 0x108 << np.maximum(exponent - 1, 0), (mantissa << 4) + 8
    )
    return np.where(toggled & 0x80, magnitude, -magnitude).astype(np.int16)


@functools.cache
def _codes(law: Law) -> NDArray[np.uint8]:
    """[65536] the code of each sample, from -32768 on."""
    levels = _levels(law).astype(np.int32)
    order = np.argsort(levels, kind="stable")
    boundaries = (levels[order][1:] + levels[order][:-1]) / 2
    return order[np.searchsorted(boundaries, np.arange(-32768, 32768))].astype(np.uint8)
