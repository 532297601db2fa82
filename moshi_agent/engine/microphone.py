"""The input of one conversation: chunks of any size, rate and number type in, frames for the engine out."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ, Framer, Samples
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent.audio.voice_activity import VoiceActivity
from moshi_agent.engine.commands import InputFrame, Key
from moshi_agent.errors import AudioError

Pcm = NDArray[np.float32] | NDArray[np.int16] | bytes | bytearray | memoryview

_LONGEST_CHUNK_S = 3600.0


class Microphone:
    """Not thread-safe: whoever pushes holds a lock."""

    def __init__(self, key: Key, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key
        self._clock = clock
        self._rate_hz = SAMPLE_RATE_HZ
        self._resampler = StreamResampler(SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
        self._framer = Framer(FRAME_SAMPLES)
        self._activity = VoiceActivity()
        self._chunk = 0

    def push(self, pcm: Pcm, sample_rate: int) -> list[InputFrame]:
        """The frames that the chunk completes. Another rate than before begins another stream.

        Raises:
            AudioError: no mono int16 or float32 samples, some that are no numbers, or an impossible rate.
        """
        samples = to_float32(pcm)
        self._chunk += 1
        if len(samples) > _LONGEST_CHUNK_S * sample_rate:
            raise AudioError(f"a chunk of {len(samples)} samples; accepted: at most an hour at once")
        rest: Samples = np.empty(0, np.float32)
        if sample_rate != self._rate_hz:
            resampler = StreamResampler(sample_rate, SAMPLE_RATE_HZ)
            rest, self._resampler, self._rate_hz = self._resampler.flush(), resampler, sample_rate
        return self._frames(np.concatenate([rest, self._resampler.push(samples)]))

    def flush(self) -> list[InputFrame]:
        """The end of the input: what was begun, filled up with silence."""
        frames = self._frames(self._resampler.flush())
        last = self._framer.flush()
        return frames if last is None else [*frames, self._frame(last)]

    def frames_in(self, pcm: Pcm, sample_rate: int) -> int:
        """At most how many frames a chunk completes."""
        samples = len(pcm) // 2 if isinstance(pcm, bytes | bytearray | memoryview) else len(pcm)
        return 1 + int(samples * SAMPLE_RATE_HZ / max(sample_rate, 1) / FRAME_SAMPLES)

    def _frames(self, samples: Samples) -> list[InputFrame]:
        return [self._frame(frame) for frame in self._framer.push(samples)]

    def _frame(self, pcm: Samples) -> InputFrame:
        activity = self._activity.hear(pcm)
        return InputFrame(self._key, pcm, activity.speaking, activity.silent, self._clock(), self._chunk)


def to_float32(pcm: object) -> Samples:
    """Mono samples as float32 from -1 to 1.

    Args:
        pcm: [N] float32, [N] int16, or bytes of little-endian int16.

    Raises:
        AudioError: anything else, or samples that are no numbers.
    """
    if isinstance(pcm, bytes | bytearray | memoryview):
        if len(pcm) % 2:
            raise AudioError(f"{len(pcm)} bytes; accepted: 16-bit samples, two bytes each")
        pcm = np.frombuffer(pcm, "<i2")
    if not isinstance(pcm, np.ndarray) or pcm.ndim != 1 or pcm.dtype not in (np.float32, np.int16):
        found = f"{pcm.ndim}-dimensional {pcm.dtype}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise AudioError(f"audio as {found}; accepted: one-dimensional float32 or int16, or int16 bytes")
    if pcm.dtype == np.int16:
        return pcm.astype(np.float32) / np.float32(32768)
    if not np.isfinite(pcm).all():
        raise AudioError("audio with NaN or infinite samples; accepted: finite samples")
    return pcm.astype(np.float32, copy=False)
