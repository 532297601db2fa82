"""When frames are complete: those of all conversations at about one time, so that one step takes them all.

A step of many rows takes little longer than one of a few. But conversations begin at any moment, and frames
that come one after the other make steps that are nearly empty, and each waits for the one before it. So a
live conversation begins with as much silence as makes its frames complete shortly before the clock strikes
a whole number of frames. The clock is that of the machine: processes that feed one engine need not agree.
"""

from __future__ import annotations

import math

import numpy as np

from moshi_agent.audio.framing import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples

_NEARLY_S = 0.002  # what a resampler may hold back


class FrameAlignment:
    """Keeps the first chunks of a conversation until it is known at which times they come: for one frame."""

    def __init__(self) -> None:
        self.is_over = False
        self._kept: list[Samples] = []
        self._heard_s = 0.0  # before the present chunk
        self._begun_at = math.inf  # when the first chunk should have come, by the one that was least late

    def push(self, samples: Samples, chunk_s: float, now_s: float) -> Samples:
        """Takes a chunk and gives what may be framed, behind the silence that goes before it.

        Args:
            samples: [N] at 24 kHz.
            chunk_s: how much time lies between two chunks. From a frame's length on nothing is to be gained.
            now_s: monotonic.
        """
        if self.is_over or not 0 < chunk_s < FRAME_S:
            return np.concatenate([self.rest(), samples])
        self._kept.append(samples)
        self._begun_at = min(self._begun_at, now_s - self._heard_s)
        came_at = self._begun_at + self._heard_s
        self._heard_s += chunk_s
        if self._heard_s < FRAME_S - _NEARLY_S:
            return np.empty(0, np.float32)
        kept = self.rest()
        silence = leading_silence(came_at, len(kept), chunk_s)
        return np.concatenate([np.zeros(silence, np.float32), kept])

    def rest(self) -> Samples:
        """Returns what is still kept; nothing will be any more."""
        self.is_over = True
        kept, self._kept = self._kept, []
        return np.concatenate([np.empty(0, np.float32), *kept])


def leading_silence(now_s: float, samples: int, chunk_s: float) -> int:
    """Returns samples of silence that make the last chunk before each strike of the clock complete a frame.

    Args:
        now_s: when the latest chunk has come; monotonic.
        samples: what has come until then, at 24 kHz.
        chunk_s: how much time lies between two chunks.
    """
    # 1 us, since what comes with the strike is in time.
    following = math.floor((-now_s % FRAME_S + 1e-6) / chunk_s)
    return -math.floor(samples + following * chunk_s * SAMPLE_RATE_HZ) % FRAME_SAMPLES
