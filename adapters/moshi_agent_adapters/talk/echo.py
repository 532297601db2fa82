"""The loudspeaker's echo in the microphone: taken out by WebRTC's canceller, or not there for headphones."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 48_000
BLOCK = 480  # samples, 10 ms: what the canceller takes
_LONGEST_DELAY_S = 0.5

Pcm = NDArray[np.int16]


class Canceller(Protocol):
    """Tells the user from the bot."""

    def clean(self, heard: Pcm, played: Pcm, delay_s: float) -> Pcm:
        """What the microphone heard [480] without its part of what is being played [480].

        Args:
            delay_s: from when `heard` was recorded to when `played` will be heard.
        """
        ...


class Headphones:
    """There is no echo."""

    def clean(self, heard: Pcm, played: Pcm, delay_s: float) -> Pcm:
        """What was heard."""
        return heard.copy()


class EchoCanceller:
    """WebRTC's, from the package `livekit`. Raises ImportError where that is not installed."""

    def __init__(self) -> None:
        rtc: Any = importlib.import_module("livekit.rtc")
        self._frame = rtc.AudioFrame
        self._processing = rtc.AudioProcessingModule(echo_cancellation=True, high_pass_filter=True)

    def clean(self, heard: Pcm, played: Pcm, delay_s: float) -> Pcm:
        """What was heard, without the echo."""
        self._processing.process_reverse_stream(self._audio(played))
        self._processing.set_stream_delay_ms(round(1000 * min(max(delay_s, 0.0), _LONGEST_DELAY_S)))
        near = self._audio(heard)
        self._processing.process_stream(near)
        return np.array(near.data, np.int16)

    def _audio(self, pcm: Pcm) -> Any:
        return self._frame(bytearray(pcm.tobytes()), RATE_HZ, 1, len(pcm))


def echo_canceller() -> Canceller | None:
    """The canceller, where there is one."""
    try:
        return EchoCanceller()
    except ImportError:
        return None
