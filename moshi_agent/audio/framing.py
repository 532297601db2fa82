"""Chunks of any size in, frames of one size out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moshi_agent.errors import AudioError

SAMPLE_RATE_HZ = 24_000
FRAME_SAMPLES = 1920  # 80 ms at 24 kHz: what one step of the model hears and says
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ

Samples = NDArray[np.float32]
Frame = NDArray[np.float32]  # [samples of one frame], 24 kHz mono, -1 to 1


class Framer:
    """Cuts a stream of mono samples into frames of `frame_samples`, keeping less than one frame.

    No sample is changed, lost or delayed beyond the frame it is part of.
    """

    def __init__(self, frame_samples: int = FRAME_SAMPLES) -> None:
        if frame_samples < 1:
            raise ValueError(f"a frame needs at least one sample, not {frame_samples}")
        self.frame_samples = frame_samples
        self._rest: Samples = np.empty(0, np.float32)

    @property
    def pending(self) -> int:
        """Counts the samples that wait for their frame to fill: always less than `frame_samples`."""
        return len(self._rest)

    def push(self, chunk: Samples) -> list[Samples]:
        """Takes samples [N] and returns the frames [frame_samples] that they complete.

        The frames are the caller's own: neither a later push nor a change to `chunk` touches them.

        Raises:
            AudioError: `chunk` is not one-dimensional float32.
        """
        samples = np.concatenate([self._rest, mono_float32(chunk)])
        whole = len(samples) // self.frame_samples * self.frame_samples
        self._rest = samples[whole:].copy()  # a copy, or it would keep the whole chunk alive
        return list(samples[:whole].reshape(-1, self.frame_samples))

    def flush(self) -> Samples | None:
        """Returns the started frame, filled up with zeros, or None if there is none. Empties the framer."""
        if not self.pending:
            return None
        frame = np.zeros(self.frame_samples, np.float32)
        frame[: self.pending] = self._rest
        self._rest = np.empty(0, np.float32)
        return frame


def frames_of(samples: Samples, tail_s: float = 0.0) -> Iterator[Samples]:
    """Cuts samples [N] at 24 kHz, and `tail_s` seconds of silence after them, into frames [1920]."""
    framer = Framer()
    silence = np.zeros(round(tail_s * SAMPLE_RATE_HZ), np.float32)
    for chunk in (samples, silence):
        yield from framer.push(chunk)
    last = framer.flush()
    if last is not None:
        yield last


def mono_float32(samples: Samples) -> Samples:
    """Returns `samples`, [N] float32, or raises AudioError that says what they are instead."""
    if samples.ndim != 1 or samples.dtype != np.float32:
        shape = "x".join(map(str, samples.shape)) or "a single number"
        raise AudioError(f"audio must be one-dimensional float32, not {shape} {samples.dtype}")
    return samples
