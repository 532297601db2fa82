"""Audio that was lost on the way, made up from what came before it.

A model that hears a hole of 20 ms in a word hears a click or another word. As in ITU-T G.711 Appendix I the
last pitch period goes on, falling to silence within 60 ms, and the first samples after the hole are faded in
over its continuation.

libopus conceals losses itself, but aiortc never asks it to, and PyAV, with which aiortc decodes, has no call
that asks. The rule here works on the decoded samples, so it serves every codec of a call.
"""

from __future__ import annotations

import numpy as np

from moshi_agent.audio.framing import Samples

_SHORTEST_PERIOD_S = 0.0025  # a pitch of 400 Hz
_LONGEST_PERIOD_S = 0.015  # 66 Hz
_FADE_AFTER_S = 0.010
_SILENT_AFTER_S = 0.060
_CROSSFADE_S = 0.004


class Concealment:
    """Fills the holes of one stream of mono samples."""

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.concealed_samples = 0
        self._heard = np.zeros(2 * self._samples(_LONGEST_PERIOD_S), np.float32)
        self._tail: Samples = np.empty(0, np.float32)  # goes on after a hole, under what follows

    def hear(self, pcm: Samples) -> Samples:
        """What arrived, [N]; after a hole, faded in."""
        overlap = min(len(self._tail), len(pcm))
        if overlap:
            fade = np.linspace(0, 1, overlap, dtype=np.float32)
            pcm = pcm.copy()
            pcm[:overlap] = fade * pcm[:overlap] + (1 - fade) * self._tail[:overlap]
            self._tail = np.empty(0, np.float32)
        kept = len(self._heard)
        self._heard = np.concatenate([self._heard, pcm[-kept:]])[-kept:]
        return pcm

    def fill(self, samples: int) -> Samples:
        """What stands for so many samples that are missing now."""
        self.concealed_samples += samples
        whole = samples + self._samples(_CROSSFADE_S)
        period = self._heard[-self._period() :]
        repeated = np.resize(period, whole) * self._fading(whole)
        self._tail = repeated[samples:]
        return repeated[:samples]

    def _period(self) -> int:
        """The lag at which the end of what was heard is most like what came before it."""
        shortest, longest = self._samples(_SHORTEST_PERIOD_S), self._samples(_LONGEST_PERIOD_S)
        window = self._heard[-longest:].astype(np.float64)
        before = np.lib.stride_tricks.sliding_window_view(self._heard, longest)[:-shortest]
        energy = np.einsum("lt,lt->l", before, before, dtype=np.float64) + 1e-9
        likeness = before @ window / np.sqrt(energy)  # [lags], the longest lag first
        return longest - int(np.argmax(likeness))

    def _fading(self, samples: int) -> Samples:
        at_s = np.arange(samples) / self.sample_rate_hz
        gain = 1 - (at_s - _FADE_AFTER_S) / (_SILENT_AFTER_S - _FADE_AFTER_S)
        return gain.clip(0, 1).astype(np.float32)

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.sample_rate_hz)
