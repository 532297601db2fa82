"""Finds what makes a recording useless to a model, and mends what can be mended.

Samples in the scale of integers are refused, since nobody can know what they were meant to be. Channels that
cancel each other, as a microphone's two wires in the wrong order give, and a constant offset are mended.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moshi_agent.audio.framing import FRAME_S, Frame, Samples
from moshi_agent.errors import AudioError

_log = logging.getLogger("moshi_agent.audio")

LOUDEST = 16.0  # a little over 1 is no harm; 32767 is somebody's int16 as float
OFFSET = 0.02  # a mean of so much over a second is no sound
_CANCELLED = 0.1  # of the power that the mean of unrelated channels has
_SILENT_POWER = 1e-8  # -80 dBFS
_OFFSET_S = 1.0  # time constant of a live stream's mean
_FIRST_OFFSET_S = 0.5  # no mean is believed before


def check_peak(samples: Samples, what: str) -> None:
    """Raises AudioError naming `what` for samples [...] in another scale than -1 to 1, or NaN."""
    peak = float(np.abs(samples).max(initial=0))
    if not peak <= LOUDEST:
        raise AudioError(f"{what} has samples of {peak:g}; accepted: float32 from -1 to 1")


class FileLevels:
    """Mends one file, block by block. What was mended is said once for each file."""

    def __init__(self, source: Path, rate_hz: int) -> None:
        self._source = source
        self._least_samples = round(_FIRST_OFFSET_S * rate_hz)
        self._offset: NDArray[np.float32] | None = None  # [channels], of the first block
        self._is_silent = True

    def mend(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns a block [n, channels] without a constant offset. Raises AudioError as `check_peak`."""
        check_peak(block, str(self._source))
        if self._offset is None:
            self._offset = self._offset_of(block)
        self._is_silent = self._is_silent and not block.any()
        return block - self._offset if self._offset.any() else block

    def mono(self, block: NDArray[np.float32]) -> Samples:
        """Returns the mean of a block's channels, [n]; the loudest of those that cancel each other."""
        if block.shape[1] == 1 or not len(block):
            return block[:, 0]  # a mean over one channel would be an expensive copy
        mean = block.mean(axis=1, dtype=np.float32)
        power = (block**2).mean(axis=0)  # [channels]
        if not _cancels(power, mean):
            return mean
        _say(self._source, "has channels that cancel each other: one of them is read")
        loudest = 0 if len(power) == 2 else int(power.argmax())  # of two, the same in every block
        return np.ascontiguousarray(block[:, loudest])

    def finish(self) -> None:
        """Warns of a file in which every sample was zero."""
        if self._is_silent:
            _say(self._source, "is silent: every sample in it is zero")

    def _offset_of(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """The means of the channels, [channels]; 0 where that may be sound."""
        none = np.zeros(block.shape[1], np.float32)
        if len(block) < self._least_samples:
            return none
        mean = block.mean(axis=0, dtype=np.float64).astype(np.float32)
        if not (np.abs(mean) > OFFSET).any():
            return none
        shown = ", ".join(f"{value:.3f}" for value in mean)
        _say(self._source, f"has a constant offset ({shown} of full scale): it is taken out")
        return mean


def _cancels(power: NDArray[np.float32], mean: Samples) -> bool:
    """Whether next to nothing of channels of a power, [channels], is left in their mean, [n].

    The mean of channels that have nothing to do with each other has their summed power over the square of
    their number.
    """
    if power.max() <= _SILENT_POWER or (len(power) == 2 and power.min() <= power.max() / 4):
        return False
    return float((mean**2).mean()) < _CANCELLED * float(power.sum()) / len(power) ** 2


@lru_cache(maxsize=4096)
def _say(source: Path, what: str) -> None:
    """Warns once: a file may be read piece by piece, a thousand times."""
    _log.warning("%s %s", source, what)


class LiveOffset:
    """Takes a constant offset out of a live stream, frame by frame; without one, frames stay as they are."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._frames = 0
        self._has_warned = False

    def mend(self, frame: Frame) -> Frame:
        """Returns a frame, [samples], without the stream's mean where that is no sound."""
        self._frames += 1
        share = max(FRAME_S / _OFFSET_S, 1 / self._frames)
        self._mean += share * (float(frame.mean()) - self._mean)
        if abs(self._mean) <= OFFSET or self._frames * FRAME_S < _FIRST_OFFSET_S:
            return frame
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "a microphone has a constant offset of %.3f of full scale: it is taken out", self._mean
            )
        return frame - np.float32(self._mean)
