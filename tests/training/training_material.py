"""What the training tests share: tones instead of speech, and models of a fraction of the width."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moshi_agent.config import (
    DepthConfig,
    MimiConfig,
    MoshiConfig,
    QuantizerConfig,
    SEANetConfig,
    TransformerConfig,
)
from moshi_agent.training.lm_data import LMData

CODEBOOKS = 4
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


def narrow_codec() -> MimiConfig:
    """Mimi at its rates, a few channels wide."""
    return MimiConfig(
        seanet=SEANetConfig(n_filters=4, dimension=16),
        transformer=TransformerConfig(
            dim=16,
            num_heads=2,
            num_layers=1,
            dim_feedforward=32,
            layer_scale=0.1,
            context=8,
            positional_embedding="rope",
        ),
        quantizer=QuantizerConfig(
            dimension=8, n_q=CODEBOOKS, bins=16, input_dimension=16, output_dimension=16
        ),
    )


def narrow_lm() -> MoshiConfig:
    """A language model of both sides' codes, 16 entries each."""
    depth = TransformerConfig(
        dim=16,
        num_heads=2,
        num_layers=1,
        dim_feedforward=32,
        norm="rms_norm_f32",
        gating="silu",
        positional_embedding="none",
        context=CODEBOOKS,
        weights_per_step=CODEBOOKS,
    )
    temporal = TransformerConfig(
        dim=32,
        num_heads=2,
        num_layers=1,
        dim_feedforward=64,
        norm="rms_norm_f32",
        gating="silu",
        positional_embedding="rope",
        context=12,
    )
    return MoshiConfig(
        temporal=temporal,
        depth=DepthConfig(transformer=depth, multi_linear=True),
        delays=(0, 0, 1, 1, 1, 0, 1, 1, 1),
        n_q=2 * CODEBOOKS,
        dep_q=CODEBOOKS,
        card=16,
        text_card=12,
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
    return LMData(codes, asked, np.full(CODEBOOKS, QUIET, np.int16))
