"""LiveKit's audio frames as the engine takes them."""

from __future__ import annotations

import numpy as np
from livekit import rtc
from numpy.typing import NDArray


def mono(frame: rtc.AudioFrame) -> NDArray[np.int16]:
    """Returns the frame's samples, [N] int16, its channels averaged."""
    samples = np.frombuffer(frame.data, np.int16)
    if frame.num_channels == 1:
        return samples
    return samples.reshape(-1, frame.num_channels).mean(axis=1).astype(np.int16)
