"""What the transport is given: whole frames, and no more of them than it can play in time."""

from __future__ import annotations

from moshi_agent import AudioChunk
from moshi_agent.audio.framing import FRAME_S

_MOST_AHEAD_S = 0.04


class Playout:
    """Leaves out silent frames where the transport has too much to play.

    A transport of Pipecat plays all it is given, in real time, from a queue without bound: whatever stalled
    (the engine, the event loop), the delay would stay until the end of the call. A leaky bucket knows how far
    ahead of real time the output is. A frame of digital silence that comes while that is more than 40 ms is
    left out: the whole frame, since transports cut what they get into chunks of 10 to 80 ms and would hold
    back the rest of a frame that is no multiple of theirs.

    Args:
        sample_rate_hz: of the transport.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._frame_samples = round(sample_rate_hz * FRAME_S)
        self._ahead_s = 0.0  # what the transport has still to play, at `_now_s`
        self._now_s: float | None = None
        self.dropped_s = 0.0

    def admit(self, chunk: AudioChunk, now_s: float) -> bytes | None:
        """Returns the frame as 16-bit samples, or None where it is left out.

        Args:
            chunk: what the bot says in one frame.
            now_s: on any clock that does not go back.
        """
        if self._now_s is not None:
            self._ahead_s = max(0.0, self._ahead_s - (now_s - self._now_s))
        self._now_s = now_s
        if self._ahead_s > _MOST_AHEAD_S and not chunk.pcm.any():
            self.dropped_s += FRAME_S
            return None
        self._ahead_s += FRAME_S
        return self._whole(chunk.to_int16())

    def interrupted(self) -> None:
        """Notes that the transport has thrown away what it had to play."""
        self._ahead_s = 0.0

    def _whole(self, pcm: bytes) -> bytes:
        # The first frame is short by what the resampler holds back, 2 ms at most.
        return bytes(max(0, 2 * self._frame_samples - len(pcm))) + pcm
