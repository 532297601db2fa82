"""What the training tests share: tones instead of speech, and calls with an easy rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moshi_agent.training.tiny.lm_data import LMData

CODEBOOKS = 2
QUIET = 3


def tones(rng: np.random.Generator, batch: int, samples: int) -> NDArray[np.float32]:
    """Harmonic tones of random pitch that start anywhere, float32 [batch, samples]."""
    time = np.arange(samples) / 24_000
    rows: list[NDArray[np.float32]] = []
    for _ in range(batch):
        pitch = rng.uniform(100, 300)
        tone = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 8))
        rows.append((0.1 * tone * (time > rng.uniform(0, time[-1] / 2))).astype(np.float32))
    return np.stack(rows)


def echoing_calls() -> LMData:
    """Calls in which the bot's codes and text follow the caller's first codebook by two frames."""
    rng = np.random.default_rng(0)
    asked = rng.integers(0, 3, size=(6, 60)).repeat(2, axis=1).astype(np.int16)
    user = np.repeat((asked + 5)[:, :, None], CODEBOOKS, axis=2)
    bot = np.full_like(user, QUIET)
    bot[:, 2:] = user[:, :-2]
    text = np.full_like(asked, 3)
    text[:, 2:] = asked[:, :-2] + 4
    codes = np.concatenate([text[:, :, None], bot, user], axis=2)
    nowhere = np.zeros(asked.shape, bool)
    return LMData(codes, asked, nowhere, nowhere, np.full(CODEBOOKS, QUIET, np.int16))
