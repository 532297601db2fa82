"""Audio that has come and is to be played: evened out, and not later than it need be."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from moshi_agent.audio.framing import Samples

_QUIET = 0.01  # of full scale: what may be skipped unnoticed
_BLOCK_MS = 10


class Player:
    """A buffer between the network and the speakers. `push` and `pull` may be called from different threads.

    It begins to play once `start_ms` are there, and again after it has run dry. With more than `late_ms` it
    skips quiet blocks of 10 ms, and with more than `longest_ms` whatever comes first.
    """

    def __init__(
        self, sample_rate_hz: int, start_ms: int = 120, late_ms: int = 240, longest_ms: int = 1500
    ) -> None:
        self.sample_rate_hz = sample_rate_hz
        self.skipped_ms = 0
        self.underruns = 0
        self._block = sample_rate_hz * _BLOCK_MS // 1000
        self._start, self._late, self._longest = (ms // _BLOCK_MS for ms in (start_ms, late_ms, longest_ms))
        self._blocks: deque[Samples] = deque()
        self._rest: Samples = np.empty(0, np.float32)
        self._pulled: Samples = np.empty(0, np.float32)  # less than a block
        self._is_playing = False
        self._lock = threading.Lock()

    @property
    def waiting_ms(self) -> int:
        """What is to be played."""
        return len(self._blocks) * _BLOCK_MS

    def push(self, samples: Samples) -> None:
        """Takes samples [N] that have come."""
        with self._lock:
            samples = np.concatenate([self._rest, samples])
            whole = len(samples) // self._block * self._block
            self._blocks.extend(samples[:whole].reshape(-1, self._block))
            self._rest = samples[whole:]

    def pull(self, count: int) -> Samples:
        """The next samples [count] to play, silence where there are none."""
        with self._lock:
            self._is_playing = self._is_playing or len(self._blocks) >= self._start
            out = self._pulled
            while self._is_playing and len(out) < count and self._blocks:
                out = np.concatenate([out, self._next_block()])
            if self._is_playing and len(out) < count:
                self._is_playing = False
                self.underruns += 1
            self._pulled = out[count:]
            return np.concatenate([out[:count], np.zeros(max(0, count - len(out)), np.float32)])

    def clear(self) -> None:
        """Forgets what is to be played: another conversation begins."""
        with self._lock:
            self._blocks.clear()
            self._is_playing = False
            self._rest = self._pulled = np.empty(0, np.float32)

    def _next_block(self) -> Samples:
        block = self._blocks.popleft()
        while self._blocks and self._is_to_skip(block):
            self.skipped_ms += _BLOCK_MS
            block = self._blocks.popleft()
        return block

    def _is_to_skip(self, block: Samples) -> bool:
        if len(self._blocks) > self._longest:
            return True
        return len(self._blocks) > self._late and float(np.abs(block).max()) < _QUIET
