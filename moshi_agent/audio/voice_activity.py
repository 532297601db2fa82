"""Tells whether the user speaks, frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import webrtcvad
from numpy.typing import NDArray

from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from moshi_agent.errors import AudioError

_RATE_HZ = 16_000
_WINDOW_MS = 20
_WINDOW_SAMPLES = _RATE_HZ * _WINDOW_MS // 1000

# The background's level is followed at once downwards and by so much a frame upwards: an unvoiced onset
# lasts a frame or two, too short to be taken for background.
_BACKGROUND_RISE_DB = 1.0
_BACKGROUND_LOWEST_DBFS = -71.0
_ABOVE_BACKGROUND_DB = 6.0


@dataclass(frozen=True, slots=True)
class Activity:
    """Says what was heard in one frame."""

    voiced: bool  # a window of the frame sounds like speech
    speaking: bool  # the user's turn, clicks left out and short pauses bridged, at the end of the frame
    silent: bool  # no part of a word, nor of the pause after one: may be left out to catch up


class VoiceActivity:
    """Asks `webrtcvad` about every 20 ms, and makes turns of its answers.

    `webrtcvad` misses unvoiced sounds, above all those that begin a word. So a frame is `silent` only if it
    is not louder than the background either: no 20 ms of it by more than 6 dB, or none over -65 dBFS.

    `webrtcvad` itself holds on to a sound for 60 to 100 ms: a click of 10 ms gives 80 to 100 ms of voice in
    its modes 2 and 3, and so does the onset of a steady noise. `start_ms` is above that. The user's turn ends
    `stop_ms` plus that hold after the last sound.

    `save` keeps the turn and the background's level. What `webrtcvad` itself has learned of the background
    cannot be read from it: after `load` it learns anew, within a second, and takes the first 80 to 140 ms of
    a noisy background for voice.

    Args:
        aggressiveness: the mode of `webrtcvad`: 0 takes most for speech, 3 least.
        start_ms: the turn starts after so much voice without a break.
        stop_ms: and stops after so much without voice.
    """

    def __init__(self, aggressiveness: int = 2, start_ms: float = 140, stop_ms: float = 400) -> None:
        if aggressiveness not in (0, 1, 2, 3):
            raise ValueError(f"the aggressiveness is 0, 1, 2 or 3, not {aggressiveness}")
        self._vad = webrtcvad.Vad(aggressiveness)
        # Cubic interpolation: what it folds lands above 4 kHz, where webrtcvad does not listen.
        self._resampler = soxr.ResampleStream(SAMPLE_RATE_HZ, _RATE_HZ, 1, dtype="float32", quality="QQ")
        # It holds back one sample. One of silence ahead makes up for it: every frame is four whole windows.
        self._rest: NDArray[np.int16] = np.zeros(1, np.int16)
        self._start_windows = max(1, round(start_ms / _WINDOW_MS))
        self._stop_windows = max(1, round(stop_ms / _WINDOW_MS))
        self._speaking = False
        self._run = 0  # windows in a row that speak against the present state
        self._background_dbfs = _BACKGROUND_LOWEST_DBFS

    def hear(self, frame: Samples) -> Activity:
        """Takes the next frame [1920], float32 at 24 kHz. Raises AudioError for another shape or type."""
        if frame.shape != (FRAME_SAMPLES,) or frame.dtype != np.float32:
            shape = list(frame.shape)
            raise AudioError(f"voice activity takes [{FRAME_SAMPLES}] float32, not {shape} {frame.dtype}")
        spoke_before = self._speaking
        voiced = False
        for window in self._windows(frame):
            is_speech = bool(self._vad.is_speech(window.tobytes(), _RATE_HZ))
            voiced |= is_speech
            self._follow(is_speech)
        in_turn = voiced or spoke_before or self._speaking
        loud = self._is_over_background(frame, learn=not in_turn)
        return Activity(voiced, self._speaking, silent=not (in_turn or loud))

    def save(self) -> dict[str, Any]:
        """Returns the state, as plain numbers."""
        return {"speaking": self._speaking, "run": self._run, "background_dbfs": self._background_dbfs}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `save` returned."""
        self._speaking, self._run = bool(state["speaking"]), int(state["run"])
        self._background_dbfs = float(state["background_dbfs"])

    def _windows(self, frame: Samples) -> NDArray[np.int16]:
        """The windows [W, 320] at 16 kHz that this frame completes."""
        resampled = self._resampler.resample_chunk(frame)
        heard = np.concatenate([self._rest, (resampled.clip(-1, 1) * 32767).astype("<i2")])
        whole = len(heard) // _WINDOW_SAMPLES * _WINDOW_SAMPLES
        self._rest = heard[whole:]
        return heard[:whole].reshape(-1, _WINDOW_SAMPLES)

    def _follow(self, is_speech: bool) -> None:
        self._run = self._run + 1 if is_speech != self._speaking else 0
        if self._run == (self._stop_windows if self._speaking else self._start_windows):
            self._speaking, self._run = not self._speaking, 0

    def _is_over_background(self, frame: Samples, learn: bool) -> bool:
        windows = frame.reshape(-1, SAMPLE_RATE_HZ * _WINDOW_MS // 1000)  # [4, 480]
        power = np.einsum("ws,ws->w", windows, windows) / windows.shape[1]  # [4]
        loudest_dbfs, mean_dbfs = (10 * math.log10(float(p) + 1e-12) for p in (power.max(), power.mean()))
        is_over = loudest_dbfs > self._background_dbfs + _ABOVE_BACKGROUND_DB
        if learn:
            followed = min(mean_dbfs, self._background_dbfs + _BACKGROUND_RISE_DB)
            self._background_dbfs = max(followed, _BACKGROUND_LOWEST_DBFS)
        return is_over
