"""Digital silence: where the bot says nothing, what it sends is exactly zero."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from moshi_agent.errors import AudioError

_WINDOW_MS = 10
_WINDOW_SAMPLES = SAMPLE_RATE_HZ * _WINDOW_MS // 1000
_WINDOWS = FRAME_SAMPLES // _WINDOW_SAMPLES
_FADE_SAMPLES = SAMPLE_RATE_HZ * 5 // 1000
_FADE_IN = ((1 - np.cos(np.pi * (np.arange(_FADE_SAMPLES) + 0.5) / _FADE_SAMPLES)) / 2).astype(np.float32)


class Gated(NamedTuple):
    """Holds a frame after the gate."""

    pcm: Samples  # [1920]; the very array that was given where the gate was open all the time
    is_open: bool  # in some part of the frame, fades included


class SpeechGate:
    """Opens where the bot speaks and gives exact zeros elsewhere, without delay.

    It opens at the first 10 ms whose level is over the floor, or with the frame of a piece of text, whose
    sound begins in that frame or soon after. It closes `hold_ms` after the last of either, so that pauses
    between syllables and words stay as they are. Both take 5 ms, a raised cosine: opening within the 5 ms
    before the onset, or after it where the onset is the frame's very beginning.

    In silence `tiny` is at -78 dBFS, in speech at -17, and the longest pause inside its answers that is under
    -55 dBFS lasts 220 ms.

    Args:
        floor_dbfs: the level (root mean square, a full-scale square wave is 0) up to which nothing is said.
        hold_ms: how long it stays open.
    """

    def __init__(self, floor_dbfs: float = -55.0, hold_ms: float = 240.0) -> None:
        if not math.isfinite(floor_dbfs) or not hold_ms >= 0:
            raise ValueError(f"a floor in dBFS and a hold of 0 ms or more, not {floor_dbfs} and {hold_ms}")
        self._floor_power = 10 ** (floor_dbfs / 10)
        self._hold_windows = round(hold_ms / _WINDOW_MS)
        self._is_open = False
        self._quiet_windows = 0  # since the last one over the floor or with text

    def process(self, pcm: Samples, writes: bool) -> Gated:
        """Takes the next frame of the bot and whether a piece of text came with it.

        Args:
            pcm: [1920] float32, 24 kHz.
            writes: the text token is a piece, not padding.

        Raises:
            AudioError: `pcm` has another shape or type.
        """
        if pcm.shape != (FRAME_SAMPLES,) or pcm.dtype != np.float32:
            raise AudioError(f"the gate takes [{FRAME_SAMPLES}] float32, not {list(pcm.shape)} {pcm.dtype}")
        was_open = self._is_open
        windows = pcm.reshape(_WINDOWS, _WINDOW_SAMPLES)
        loud = np.einsum("ws,ws->w", windows, windows) > self._floor_power * _WINDOW_SAMPLES  # [W]
        is_open = [self._follow(bool(heard) or writes) for heard in loud]
        if was_open and all(is_open):
            return Gated(pcm, True)
        if not was_open and not any(is_open):
            return Gated(np.zeros_like(pcm), False)
        return Gated(_faded(windows, was_open, is_open), True)

    def save(self) -> dict[str, Any]:
        """Returns the state, as plain numbers."""
        return {"is_open": self._is_open, "quiet_windows": self._quiet_windows}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `save` returned."""
        self._is_open, self._quiet_windows = bool(state["is_open"]), int(state["quiet_windows"])

    def _follow(self, says_something: bool) -> bool:
        """Whether the gate is open in the window that is next."""
        self._quiet_windows = 0 if says_something else self._quiet_windows + 1
        self._is_open = says_something or (self._is_open and self._quiet_windows <= self._hold_windows)
        return self._is_open


def _faded(windows: Samples, was_open: bool, is_open: list[bool]) -> Samples:
    """windows [W, 240] -> [1920], zero where closed, faded where that changes."""
    gain = np.repeat(np.asarray(is_open, np.float32), _WINDOW_SAMPLES)  # [1920]
    before = [was_open, *is_open[:-1]]
    for window, (was, now) in enumerate(zip(before, is_open, strict=True)):
        start = window * _WINDOW_SAMPLES
        if now and not was:
            onset = max(start - _FADE_SAMPLES, 0)
            gain[onset : onset + _FADE_SAMPLES] = _FADE_IN
        elif was and not now:
            gain[start : start + _FADE_SAMPLES] = _FADE_IN[::-1]
    return windows.reshape(-1) * gain
