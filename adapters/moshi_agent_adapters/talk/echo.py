"""The loudspeaker's echo in the microphone: taken out by WebRTC's canceller, or not there for headphones."""

from __future__ import annotations

import importlib
import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 48_000
BLOCK = 480  # samples, 10 ms: what the canceller takes
_LONGEST_DELAY_S = 0.5

Pcm = NDArray[np.int16]


class Canceller(Protocol):
    """Tells the user from the bot. What is played and what is heard may come from different threads."""

    def play(self, played: Pcm, delay_s: float) -> None:
        """Takes what will be heard [480] in `delay_s`."""
        ...

    def clean(self, heard: Pcm, age_s: float) -> Pcm:
        """What the microphone heard [480] `age_s` ago, without its part of what was played."""
        ...


class Headphones:
    """There is no echo."""

    def play(self, played: Pcm, delay_s: float) -> None:
        """Nothing to do."""

    def clean(self, heard: Pcm, age_s: float) -> Pcm:
        """What was heard."""
        return heard.copy()


class EchoCanceller:
    """WebRTC's, from the package `livekit`. Raises ImportError where that is not installed."""

    def __init__(self) -> None:
        rtc: Any = importlib.import_module("livekit.rtc")
        self._frame = rtc.AudioFrame
        self._processing = rtc.AudioProcessingModule(echo_cancellation=True, high_pass_filter=True)
        self._play_delay_s = 0.0
        self._lock = threading.Lock()

    def play(self, played: Pcm, delay_s: float) -> None:
        """Takes what the echo will be made of."""
        with self._lock:
            self._play_delay_s = delay_s
            self._processing.process_reverse_stream(self._audio(played))

    def clean(self, heard: Pcm, age_s: float) -> Pcm:
        """What was heard, without the echo."""
        near = self._audio(heard)
        with self._lock:
            delay_s = min(max(self._play_delay_s + age_s, 0.0), _LONGEST_DELAY_S)
            self._processing.set_stream_delay_ms(round(1000 * delay_s))
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
