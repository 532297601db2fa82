"""Finds when somebody speaks in a whole recording."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import soxr
import webrtcvad
from numpy.typing import NDArray

from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples

_RATE_HZ = 16_000
_WINDOW_S = 0.01
_WINDOW = round(_RATE_HZ * _WINDOW_S)
_AGGRESSIVENESS = 2
_HOLD_WINDOWS = 6  # for which webrtcvad goes on after a sound
_SHORTEST_WINDOWS = 6


class Span(NamedTuple):
    """Holds a stretch of speech, in seconds."""

    start_s: float
    end_s: float


def speech_spans(samples: Samples, bridge_s: float = 0.2) -> list[Span]:
    """Finds speech in mono samples [N] at 24 kHz; pauses shorter than `bridge_s` are part of it."""
    resampled = cast("Samples", soxr.resample(samples, SAMPLE_RATE_HZ, _RATE_HZ))
    pcm = (resampled.clip(-1, 1) * 32767).astype("<i2")
    windows = pcm[: len(pcm) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    vad = webrtcvad.Vad(_AGGRESSIVENESS)
    voiced = np.array([vad.is_speech(window.tobytes(), _RATE_HZ) for window in windows], bool)
    length_s = len(samples) / SAMPLE_RATE_HZ
    return [
        Span(first * _WINDOW_S, min(last * _WINDOW_S, length_s))
        for first, last in _runs(voiced, round(bridge_s / _WINDOW_S))
        if last - first >= _SHORTEST_WINDOWS
    ]


def _runs(voiced: NDArray[np.bool_], bridge: int) -> list[tuple[int, int]]:
    """First window and the one after the last, of each run of voice without its hold, pauses bridged."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], voiced, [False]]).astype(np.int8)))
    runs: list[tuple[int, int]] = []
    for first, last in edges.reshape(-1, 2).tolist():
        last = last if last == len(voiced) else max(last - _HOLD_WINDOWS, first + 1)
        if runs and first - runs[-1][1] < bridge:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return runs
