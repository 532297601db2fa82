"""Output that does not fall behind: silence is left out where the player has too much to play."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moshi_agent.audio.framing import Samples, mono_float32

_SHORTEST_SILENCE_MS = 10  # zeros that are fewer may be part of a word: a wave that crosses zero


class PlayoutClock:
    """Tracks how much a real-time player has still to play, and leaves out silence when it is too much.

    After a stall the late frames come in a burst, and a player that plays all it gets is late from then on,
    for the rest of the call. A leaky bucket shows it: its level rises by what is handed out and falls with
    time, never below zero (the player has run dry). Where a chunk would lift it over `target_ms`, samples of
    that chunk that are digital silence (10 ms or more of exact zeros, as `SpeechGate` makes them) are left
    out, as many as needed and no more. All other samples pass, in order.

    The level after a chunk is the chunk's length plus how much earlier it came than the latest one did. So
    the target is the length of a chunk plus the jitter that is let be:

    - the default of 100 ms for chunks of 80 ms leaves arrivals alone that scatter by up to 20 ms;
    - after a stall the player is up to those 20 ms later than it need be, no more, as soon as there was as
      much silence as the stall was long;
    - a larger target leaves more jitter alone, and as much more delay for good. A smaller one drops silence
      all the time, and has the player run dry at every late chunk.

    Args:
        sample_rate_hz: of the chunks.
        target_ms: the most that the player should have before it.
    """

    def __init__(self, sample_rate_hz: int, target_ms: float = 100.0) -> None:
        if sample_rate_hz <= 0 or not target_ms > 0:
            raise ValueError(f"a positive rate and target, not {sample_rate_hz} Hz and {target_ms} ms")
        self.sample_rate_hz = sample_rate_hz
        self.target_ms = target_ms
        self.dropped_samples = 0
        self._level = 0.0  # in samples, at `_now_s`
        self._now_s: float | None = None

    @property
    def ahead_ms(self) -> float:
        """Tells how much the player had still to play after the last chunk."""
        return 1000 * self._level / self.sample_rate_hz

    def admit(self, pcm: Samples, now_s: float) -> Samples:
        """Takes the next chunk [N] and returns what of it the player is to get, [M] with M <= N.

        Args:
            pcm: float32 at `sample_rate_hz`.
            now_s: when it is handed out, of any clock that does not go back.

        Raises:
            AudioError: `pcm` is not one-dimensional float32.
        """
        self._leak(now_s)
        target = self.target_ms * self.sample_rate_hz / 1000
        excess = int(self._level + len(mono_float32(pcm)) - target)  # a part of a sample is none
        kept = _without_silence(pcm, excess, self._shortest_silence) if excess > 0 else pcm
        self.dropped_samples += len(pcm) - len(kept)
        self._level += len(kept)
        return kept

    def save(self) -> dict[str, Any]:
        """Returns the state, as plain numbers."""
        return {"level": self._level, "dropped_samples": self.dropped_samples}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `save` returned, with the next chunk's time as the beginning of a new clock."""
        self._level, self.dropped_samples = float(state["level"]), int(state["dropped_samples"])
        self._now_s = None

    @property
    def _shortest_silence(self) -> int:
        return self.sample_rate_hz * _SHORTEST_SILENCE_MS // 1000

    def _leak(self, now_s: float) -> None:
        played_s = 0.0 if self._now_s is None else max(0.0, now_s - self._now_s)
        self._level = max(0.0, self._level - played_s * self.sample_rate_hz)
        self._now_s = now_s


def _without_silence(pcm: Samples, excess: int, shortest: int) -> Samples:
    """pcm [N] without its first `excess` samples of digital silence, or without all if there are fewer."""
    is_zero = np.concatenate([[False], pcm == 0, [False]])
    edges: NDArray[np.intp] = np.flatnonzero(is_zero[1:] != is_zero[:-1]).reshape(-1, 2)  # [runs, 2]
    keep = np.ones(len(pcm), np.bool_)
    for start, end in edges[edges[:, 1] - edges[:, 0] >= shortest].tolist():
        dropped = min(excess, end - start)
        keep[start : start + dropped] = False
        excess -= dropped
    return pcm[keep]
