"""Random numbers that are a function of a counter: the same counter gives the same number, whoever asks."""

from __future__ import annotations

from torch import Tensor

GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as int64
MIX_1 = -4658895280553007687  # the multipliers of SplitMix64 (Steele et al. 2014)
MIX_2 = -7723592293110705685


def uniform(bits: Tensor) -> Tensor:
    """Maps int64 to numbers strictly between 0 and 1."""
    # 23 bits: with one more, a float32 would round the largest number to 1, whose noise is infinite.
    return (((bits >> 41) & 0x7FFFFF).float() + 0.5) / 2**23


def mix(x: Tensor) -> Tensor:
    """Scatters the bits of int64 numbers."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
