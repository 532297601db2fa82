"""The input of one conversation: chunks of any size, rate and number type in, frames for the engine out."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ, Framer, Samples
from moshi_agent.audio.levels import LiveOffset, check_peak
from moshi_agent.audio.resampling import HIGHEST_RATE_HZ, LOWEST_RATE_HZ, StreamResampler
from moshi_agent.audio.voice_activity import VoiceActivity
from moshi_agent.engine.commands import InputFrame, Key
from moshi_agent.engine.schedule.frame_alignment import FrameAlignment
from moshi_agent.errors import AudioError

Pcm = NDArray[np.float32] | NDArray[np.int16] | bytes | bytearray | memoryview

_LONGEST_CHUNK_S = 3600.0


class Microphone:
    """Not thread-safe: whoever pushes holds a lock.

    Args:
        live: chunks come in real time, and their frames are to be complete when those of others are.
    """

    def __init__(self, key: Key, clock: Callable[[], float] = time.monotonic, live: bool = False) -> None:
        self._key = key
        self._clock = clock
        self._rate_hz = SAMPLE_RATE_HZ
        self._resampler = StreamResampler(SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
        self._framer = Framer(FRAME_SAMPLES)
        self._offset = LiveOffset()
        self._activity = VoiceActivity()
        self._chunk = 0
        self._alignment = FrameAlignment() if live else None

    def push(self, samples: Samples, sample_rate: int) -> list[InputFrame]:
        """Returns the frames that samples, as `to_float32` gives them, complete.

        Another rate than before begins another stream.
        """
        self._chunk += 1
        rest: Samples = np.empty(0, np.float32)
        if sample_rate != self._rate_hz:
            resampler = StreamResampler(sample_rate, SAMPLE_RATE_HZ)
            rest, self._resampler, self._rate_hz = self._resampler.flush(), resampler, sample_rate
        resampled = np.concatenate([rest, self._resampler.push(samples)])
        if self._alignment is not None and not self._alignment.is_over:
            resampled = self._alignment.push(resampled, len(samples) / sample_rate, self._clock())
        return self._frames(resampled)

    def flush(self) -> list[InputFrame]:
        """Ends the input. Returns what was begun, filled up with silence."""
        kept = np.empty(0, np.float32) if self._alignment is None else self._alignment.rest()
        frames = self._frames(np.concatenate([kept, self._resampler.flush()]))
        last = self._framer.flush()
        return frames if last is None else [*frames, self._frame(last)]

    def _frames(self, samples: Samples) -> list[InputFrame]:
        return [self._frame(frame) for frame in self._framer.push(samples)]

    def _frame(self, pcm: Samples) -> InputFrame:
        pcm = self._offset.mend(pcm)
        activity = self._activity.hear(pcm)
        return InputFrame(self._key, pcm, activity.speaking, activity.silent, self._clock(), self._chunk)


def to_float32(pcm: object, sample_rate: object) -> Samples:
    """Brings mono samples to float32 from -1 to 1.

    Args:
        pcm: [N] float32, [N] int16, or bytes of little-endian int16.
        sample_rate: in Hz.

    Raises:
        AudioError: anything else, samples that are no numbers, or more than an hour of them.
    """
    if not isinstance(sample_rate, int | np.integer) or not LOWEST_RATE_HZ <= sample_rate <= HIGHEST_RATE_HZ:
        accepted = f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz, whole numbers"
        raise AudioError(f"audio at a rate of {sample_rate!r}; accepted: {accepted}")
    samples = _int16(pcm) if isinstance(pcm, bytes | bytearray | memoryview) else pcm
    if (
        not isinstance(samples, np.ndarray)
        or samples.ndim != 1
        or samples.dtype not in (np.float32, np.int16)
    ):
        is_array = isinstance(samples, np.ndarray)
        found = f"{samples.ndim}-dimensional {samples.dtype}" if is_array else type(samples).__name__
        raise AudioError(f"audio as {found}; accepted: one-dimensional float32 or int16, or int16 bytes")
    if len(samples) > _LONGEST_CHUNK_S * sample_rate:
        raise AudioError(f"a chunk of {len(samples)} samples; accepted: at most an hour at once")
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    samples = samples.astype(np.float32, copy=False)
    check_peak(samples, "the audio")
    return samples


def _int16(pcm: bytes | bytearray | memoryview) -> NDArray[np.int16]:
    data = bytes(pcm)
    if len(data) % 2:
        raise AudioError(f"{len(data)} bytes; accepted: 16-bit samples, two bytes each")
    return np.frombuffer(data, "<i2")
