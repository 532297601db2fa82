"""The weights of a short windowed-sinc filter between two sample rates, and their products with samples.

Output sample n lies at input time n * down / up and weighs the inputs within `reach` of it on each side. Both
filters here take `samples` that begin with the first input that output `first` of the wanted ones needs.

    BlockFilter    whole blocks of outputs as one matrix product: the rates that sound has
    SampleFilter   sample by sample, for rates with no small ratio
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from moshi_agent.audio.framing import Samples

# The filter's reach to each side, in samples of the lower rate: 1.9 ms at 8 kHz. With the window's 60 dB it
# passes what is below 0.40 of that rate and stops what is above 0.55:
# 3.2 to 4.4 kHz where that is 8 kHz, around the end of the telephone band.
_REACH = 15
_CUTOFF = 0.47  # the middle of the transition, as a part of the lower rate
_KAISER_BETA = 5.65  # 60 dB

_GROUP_OUTPUTS = 32  # outputs of one row of a product: fewer make it thin, more make it mostly zeros
_BLOCK_S = 0.02  # outputs of one product: more are computed twice in small chunks
_MOST_PHASES = 1_000  # beyond it the matrix would not stay in the processor's cache


class Filter(Protocol):
    """Filters between two rates, whose ratio in lowest terms is up / down."""

    reach: int  # inputs on each side of an output that it depends on

    def first_input(self, output: int) -> int:
        """Returns the first input that has to be kept for this output and those after it."""
        ...

    def outputs(self, samples: Samples, first: int, end: int) -> Samples:
        """Computes outputs `first` to `end` - 1, from inputs [N] that begin with `first_input(first)`.

        Every input that these depend on has to be there.
        """
        ...


class BlockFilter:
    """Computes outputs in groups of `up` or a multiple: a group is a row of a matrix product.

        [rows, down + 2 reach] windows on the inputs  @  [down + 2 reach, up] weights  ->  [rows, up]

    Every output of the stream has its fixed place in a product of fixed shape, on a grid that begins with
    the stream. A block that is not all there is computed as far as it is, over zeros, and again when there is
    more. So it makes no bit of difference in which chunks the samples came.
    """

    def __init__(self, up: int, down: int, reach: int, in_rate_hz: int) -> None:
        repeats = max(1, _GROUP_OUTPUTS // up)
        self.reach = reach
        self._group_in, self._group_out = repeats * down, repeats * up
        self._rows = max(1, round(_BLOCK_S * in_rate_hz / self._group_in))
        self._weights = _group_weights(up, down, reach, repeats)

    def first_input(self, output: int) -> int:
        """Returns the first input of the block that the output is part of."""
        return output // (self._rows * self._group_out) * self._rows * self._group_in - self.reach

    def outputs(self, samples: Samples, first: int, end: int) -> Samples:
        """See `Filter.outputs`."""
        block_out = self._rows * self._group_out
        start = first // block_out * block_out
        blocks = -(-(end - start) // block_out)
        width = len(self._weights)
        covered = (blocks * self._rows - 1) * self._group_in + width
        padded = np.zeros(covered, np.float32)
        padded[: len(samples)] = samples[:covered]
        step = padded.itemsize
        windows: Samples = np.ndarray(
            (blocks, self._rows, width),
            np.float32,
            padded,
            strides=(self._rows * self._group_in * step, self._group_in * step, step),
        )
        # One product of the same shape for each block: a stack is not one tall product.
        computed = np.matmul(np.ascontiguousarray(windows), self._weights)
        return computed.reshape(-1)[first - start : end - start]


class SampleFilter:
    """Computes each output by itself, with the weights of its phase."""

    def __init__(self, up: int, down: int, reach: int) -> None:
        self.reach = reach
        self._up, self._down = up, down
        self._taps = _taps(up, down, reach)

    def first_input(self, output: int) -> int:
        """Returns the first input that the output depends on."""
        return output * self._down // self._up - self.reach

    def outputs(self, samples: Samples, first: int, end: int) -> Samples:
        """See `Filter.outputs`."""
        position = np.arange(first, end) * self._down
        start = position // self._up - self.reach - self.first_input(first)
        windows = sliding_window_view(samples, 2 * self.reach + 1)[start]  # [M, 2 reach + 1]
        return np.einsum("mt,mt->m", windows, self._taps[position % self._up])


def make_filter(in_rate_hz: int, out_rate_hz: int) -> Filter:
    """Makes the filter from one rate to another; they must differ."""
    divisor = math.gcd(in_rate_hz, out_rate_hz)
    up, down = out_rate_hz // divisor, in_rate_hz // divisor
    reach = math.ceil(_REACH * max(1.0, down / up))
    if max(up, down) > _MOST_PHASES:
        return SampleFilter(up, down, reach)
    return BlockFilter(up, down, reach, in_rate_hz)


@lru_cache(maxsize=32)  # every conversation resamples between the same few rates
def _group_weights(up: int, down: int, reach: int, repeats: int) -> Samples:
    """[repeats * down + 2 reach, repeats * up]: each output's weights of the inputs around its group."""
    taps = _taps(up, down, reach)
    weights = np.zeros((repeats * down + 2 * reach, repeats * up), np.float32)
    for output in range(repeats * up):
        position = output * down
        weights[position // up :, output][: 2 * reach + 1] = taps[position % up]
    weights.flags.writeable = False
    return weights


@lru_cache(maxsize=8)
def _taps(up: int, down: int, reach: int) -> Samples:
    """[up, 2 reach + 1]: for each place that an output can have between two inputs, the inputs' weights."""
    offset = np.arange(-reach, reach + 1) - np.arange(up)[:, None] / up  # in input samples
    scale = min(1.0, up / down)  # input samples to samples of the lower rate
    at: NDArray[np.float64] = offset * scale
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (at / _REACH) ** 2, 0, None))) * (abs(at) < _REACH)
    taps = np.sinc(2 * _CUTOFF * at) * window
    taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
    taps.flags.writeable = False
    return taps
