"""Changes the sample rate of live audio.

Files go through `soxr`, which is the better filter. Its streams work in blocks, though, and in a conversation
what they hold back is most of a frame. Fed with 10 ms at a time, at each of its qualities, they held back:

    | kHz     | QQ, ms | LQ, ms | MQ, ms | HQ, ms | VHQ, ms |
    |---------|--------|--------|--------|--------|---------|
    | 24 - 48 |    0.1 |   20.4 |   39.3 |   38.3 |    37.1 |
    |  8 - 24 |    0.2 |   40.0 |   75.3 |   73.2 |   152.5 |

QQ, which holds back nothing, is cubic interpolation and filters nothing out. The filter here is a short
windowed sinc. Measured, with frequencies as parts of the lower rate of a pair:

    | kHz       | delay up, ms | down, ms | ripple up to 0.40 | from 0.55 on |
    |-----------|--------------|----------|-------------------|--------------|
    | 8    16   |         1.88 |     1.88 |           0.01 dB |     -61.8 dB |
    | 8    24   |         1.88 |     1.88 |           0.01 dB |     -61.6 dB |
    | 8    44.1 |         1.88 |     2.00 |           0.01 dB |     -61.7 dB |
    | 8    48   |         1.88 |     1.88 |           0.01 dB |     -61.6 dB |
    | 16   24   |         0.96 |     1.00 |           0.01 dB |     -61.6 dB |
    | 16   44.1 |         0.95 |     1.00 |           0.01 dB |     -61.7 dB |
    | 16   48   |         0.94 |     0.94 |           0.01 dB |     -61.6 dB |
    | 24   44.1 |         0.63 |     0.67 |           0.01 dB |     -61.7 dB |
    | 24   48   |         0.62 |     0.62 |           0.01 dB |     -61.8 dB |
    | 44.1 48   |         0.35 |     0.36 |           0.01 dB |     -61.7 dB |

The stopband begins at half of the lower rate plus a transition of 0.05 of it. Of both directions, the worse
one's levels are given.
"""

from __future__ import annotations

import math

import numpy as np

from moshi_agent.audio.framing import Samples, mono_float32
from moshi_agent.audio.polyphase import make_filter
from moshi_agent.errors import AudioError

LOWEST_RATE_HZ = 4_000
HIGHEST_RATE_HZ = 192_000

_PIECE = 48_000  # inputs filtered at once, which bounds the memory of a push of any length


class StreamResampler:
    """Resamples a mono stream, chunk by chunk.

    Output sample n is the input at time n / out_rate, exactly: nothing is shifted. It is given out as soon as
    the input that it depends on is there, which is `delay_samples` later. How the input is cut into chunks
    changes no bit of the output.
    """

    def __init__(self, in_rate_hz: int, out_rate_hz: int) -> None:
        for rate_hz in (in_rate_hz, out_rate_hz):
            if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
                accepted = f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz"
                raise AudioError(f"cannot resample live audio at {rate_hz} Hz: {accepted} are accepted")
        divisor = math.gcd(in_rate_hz, out_rate_hz)
        self._up = out_rate_hz // divisor
        self._down = in_rate_hz // divisor
        self._filter = None if self._up == self._down else make_filter(in_rate_hz, out_rate_hz)
        self.reset()

    @property
    def delay_samples(self) -> int:
        """Tells how many output samples are held back: N inputs give N * out / in minus at most this."""
        return 0 if self._filter is None else -(-self._filter.reach * self._up // self._down)

    def reset(self) -> None:
        """Forgets the stream: the next push begins another."""
        self._next_output = 0
        self._heard = 0  # inputs
        # From what the next output needs on. The stream is silent before it starts.
        self._history: Samples = np.zeros(0 if self._filter is None else self._filter.reach, np.float32)

    def push(self, chunk: Samples) -> Samples:
        """Takes samples [N] at the input rate, returns those [M] at the output rate that they complete.

        Raises:
            AudioError: `chunk` is not one-dimensional float32.
        """
        samples = mono_float32(chunk)
        if self._filter is None:
            return samples.copy()
        if len(samples) <= _PIECE:
            return self._push(samples)
        pieces = [samples[start : start + _PIECE] for start in range(0, len(samples), _PIECE)]
        return np.concatenate([self._push(piece) for piece in pieces])

    def flush(self) -> Samples:
        """Returns the rest of the stream, [M], as if silence followed. The next push begins another.

        In all, N inputs give N * out / in outputs, rounded up.
        """
        if self._filter is None:
            return np.empty(0, np.float32)
        missing = self._first_output_at(self._heard) - self._next_output
        rest = self._push(np.zeros(self._filter.reach, np.float32))[:missing]
        self.reset()
        return rest

    def _push(self, samples: Samples) -> Samples:
        assert self._filter is not None
        self._history = np.concatenate([self._history, samples])
        self._heard += len(samples)
        # Output n depends on the input up to n * down // up + reach.
        first, ready = self._next_output, self._first_output_at(self._heard - self._filter.reach)
        if ready <= first:
            return np.empty(0, np.float32)
        outputs = self._filter.outputs(self._history, first, ready)
        self._next_output = ready
        forgotten = self._filter.first_input(ready) - self._filter.first_input(first)
        if forgotten:
            self._history = self._history[forgotten:].copy()
        return outputs

    def _first_output_at(self, input_index: int) -> int:
        """The first output sample that is not earlier than this input sample."""
        return -(-input_index * self._up // self._down)
