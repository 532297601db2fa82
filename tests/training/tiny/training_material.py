"""What the training tests share: tones instead of speech, and calls with an easy rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moshi_agent.training.mimi.codec import CropBatch
from moshi_agent.training.tiny.lm_data import LMData
from moshi_agent.training.tiny.phone_labels import STEP
from moshi_agent.training.tiny.tokenizer import PADDING

CODEBOOKS = 2
QUIET = 3


def tones(rng: np.random.Generator, batch: int, samples: int) -> CropBatch:
    """Harmonic tones of random pitch that start anywhere, the pitch being a phone."""
    time = np.arange(samples) / 24_000
    rows: list[NDArray[np.float32]] = []
    phones: list[NDArray[np.int64]] = []
    for _ in range(batch):
        pitch = rng.uniform(100, 300)
        tone = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 8))
        sounds = time > rng.uniform(0, time[-1] / 2)
        rows.append((0.1 * tone * sounds).astype(np.float32))
        phones.append(sounds[STEP // 2 :: STEP] * (1 + int(pitch // 50)))
    return CropBatch(
        heard=np.stack(rows), clean=np.stack(rows), phones=np.stack(phones), own=np.arange(batch) % 2 == 0
    )


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
    none = np.full(asked.shape, PADDING, np.int16)
    return LMData(codes, none, asked, nowhere, nowhere, np.full(CODEBOOKS, QUIET, np.int16))
