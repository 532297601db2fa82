"""What the caller says: decoded frames, holes filled, on their way into the conversation."""

from __future__ import annotations

from typing import Any

import numpy as np

from moshi_agent import AudioError, BacklogFull, Session
from moshi_agent.audio.framing import Samples
from moshi_agent_adapters.webrtc.concealment import Concealment

_LONGEST_HOLE_S = 0.12  # more than that is a pause: the engine has its own way with those


class CallerAudio:
    """Takes the decoded frames of a track in order and pushes mono audio without holes."""

    def __init__(self, session: Session) -> None:
        self.refused_frames = 0  # of a caller who sends faster than time goes
        self._session = session
        self._concealment: Concealment | None = None
        self._next_pts: int | None = None

    @property
    def concealed_s(self) -> float:
        """Seconds of audio that were lost and made up."""
        lost = self._concealment
        return 0.0 if lost is None else lost.concealed_samples / lost.sample_rate_hz

    def push(self, frame: Any) -> None:
        """Takes an `av.AudioFrame`. Raises SessionClosed."""
        pcm = self._without_hole(mono(frame), frame)
        try:
            self._session.push(pcm, frame.sample_rate)
        except (BacklogFull, AudioError):
            self.refused_frames += 1

    def _without_hole(self, pcm: Samples, frame: Any) -> Samples:
        if self._concealment is None or self._concealment.sample_rate_hz != frame.sample_rate:
            self._concealment, self._next_pts = Concealment(frame.sample_rate), None
        missing = 0 if self._next_pts is None else frame.pts - self._next_pts
        self._next_pts = frame.pts + len(pcm)
        if not 0 < missing <= _LONGEST_HOLE_S * frame.sample_rate:
            return self._concealment.hear(pcm)
        filled = self._concealment.fill(missing)
        return np.concatenate([filled, self._concealment.hear(pcm)])


def mono(frame: Any) -> Samples:
    """The mean of a 16-bit frame's channels, [N] float32."""
    channels = len(frame.layout.channels)
    samples = frame.to_ndarray().reshape(-1, channels) if frame.format.is_packed else frame.to_ndarray().T
    return samples.mean(axis=1, dtype=np.float32) / np.float32(32768)
