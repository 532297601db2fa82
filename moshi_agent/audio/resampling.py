"""Changing the sample rate of live audio.

Files go through `soxr`, which is the better filter. Its streams work in blocks, though: they hold back up to
38 ms between 24 and 48 kHz and 73 ms between 8 and 24 kHz, which in a conversation is most of a frame. The
filter here is a short windowed sinc, worked out sample by sample: it holds back 2 ms at 8 kHz and less above.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from moshi_agent.audio.framing import Samples, mono_float32
from moshi_agent.errors import AudioError

LOWEST_RATE_HZ = 4_000
HIGHEST_RATE_HZ = 192_000

# The filter's reach to each side, in samples of the lower rate. With the window's 60 dB it leaves a
# transition of 0.11 of that rate: 3.3 to 4.2 kHz at 8 kHz, which is above the telephone band.
_REACH = 16
_CUTOFF = 0.47  # the middle of the transition, as a part of the lower rate
_KAISER_BETA = 5.65  # 60 dB
_BLOCK = 4096  # outputs computed at once, which bounds the memory of a push of any length


class StreamResampler:
    """Resamples a mono stream, chunk by chunk.

    Output sample n is the input at time n / out_rate, exactly: nothing is shifted. It is given out as soon as
    the input that it depends on is there, which is `delay_samples` later. How the input is cut into chunks
    changes nothing in the output.
    """

    def __init__(self, in_rate_hz: int, out_rate_hz: int) -> None:
        for rate_hz in (in_rate_hz, out_rate_hz):
            if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
                accepted = f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz"
                raise AudioError(f"cannot resample live audio at {rate_hz} Hz: {accepted} are accepted")
        divisor = math.gcd(in_rate_hz, out_rate_hz)
        self._up = out_rate_hz // divisor
        self._down = in_rate_hz // divisor
        # Input samples on each side of an output sample that it depends on.
        self._half = 0 if self._up == self._down else math.ceil(_REACH * max(1.0, in_rate_hz / out_rate_hz))
        self._taps = _phase_filters(self._up, self._down, self._half)  # [up, 2 half + 1]
        self.reset()

    @property
    def delay_samples(self) -> int:
        """Output samples held back: N inputs have given at least N * out / in minus this many."""
        return -(-self._half * self._up // self._down)

    def reset(self) -> None:
        """Forgets the stream: what is pushed next is the beginning of another."""
        self._history: Samples = np.zeros(self._half, np.float32)  # the stream is silent before it starts
        self._history_start = -self._half  # which input sample history[0] is
        self._next_output = 0

    def push(self, chunk: Samples) -> Samples:
        """Takes samples [N] at the input rate, returns those [M] at the output rate that they complete.

        Raises:
            AudioError: `chunk` is not one-dimensional float32.
        """
        if not self._half:
            return mono_float32(chunk).copy()
        self._history = np.concatenate([self._history, mono_float32(chunk)])
        heard = self._history_start + len(self._history)
        # Output n depends on the input up to n * down // up + half.
        ready = self._first_output_at(heard - self._half)
        blocks = [self._filter(n, min(n + _BLOCK, ready)) for n in range(self._next_output, ready, _BLOCK)]
        self._next_output = max(self._next_output, ready)
        self._forget()
        return np.concatenate(blocks) if blocks else np.empty(0, np.float32)

    def flush(self) -> Samples:
        """The rest of the stream [M], taken to end in silence. The next push starts another stream.

        In all, N inputs give N * out / in outputs, rounded up.
        """
        total = self._first_output_at(self._history_start + len(self._history))
        missing = total - self._next_output
        rest = self.push(np.zeros(self._half, np.float32))[:missing]
        self.reset()
        return rest

    def _first_output_at(self, input_index: int) -> int:
        """The first output sample that is not earlier than this input sample."""
        return -(-input_index * self._up // self._down)

    def _filter(self, first: int, end: int) -> Samples:
        """Output samples `first` to `end` - 1, all within what history covers."""
        position = np.arange(first, end) * self._down
        start = position // self._up - self._half - self._history_start
        windows = sliding_window_view(self._history, 2 * self._half + 1)[start]  # [M, 2 half + 1]
        return np.einsum("mt,mt->m", windows, self._taps[position % self._up])

    def _forget(self) -> None:
        """Drops the history that no later output reads."""
        needed = self._next_output * self._down // self._up - self._half
        self._history = self._history[needed - self._history_start :].copy()
        self._history_start = needed


def _phase_filters(up: int, down: int, half: int) -> Samples:
    """For each of the `up` places an output can have between two inputs, the weights of 2 half + 1 inputs."""
    if half == 0:
        return np.ones((1, 1), np.float32)
    offset = np.arange(-half, half + 1) - np.arange(up)[:, None] / up  # [up, taps], in input samples
    scale = min(1.0, up / down)  # input samples to samples of the lower rate
    at: NDArray[np.float64] = offset * scale
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (at / _REACH) ** 2, 0, None))) * (abs(at) < _REACH)
    taps = np.sinc(2 * _CUTOFF * at) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
