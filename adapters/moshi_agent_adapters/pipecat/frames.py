"""Pipecat's audio frames as the engine takes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pipecat.frames.frames import InputAudioRawFrame


def mono(frame: InputAudioRawFrame) -> NDArray[np.int16]:
    """Returns the frame's samples, [N] int16, its channels averaged."""
    samples = np.frombuffer(frame.audio, "<i2")
    if frame.num_channels == 1:
        return samples
    return samples.reshape(-1, frame.num_channels).mean(axis=1).astype(np.int16)
