"""Encoded calls on disk: made once, one shard of several calls at a time, and cropped for training."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from moshi_agent.errors import ConfigError
from moshi_agent.training.conversations import ConversationSampler
from moshi_agent.training.encoding import CallEncoder


@dataclass(frozen=True, kw_only=True)
class LMDataPlan:
    """How many calls are made."""

    shards: int = 60
    calls_per_shard: int = 10
    frames: int = 750  # per call
    seed: int = 31


def build_lm_data(folder: Path, sampler: ConversationSampler, encoder: CallEncoder, plan: LMDataPlan) -> None:
    """Writes the shards that are missing; a shard depends on its number only."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(plan.shards), desc="calls", unit="shard"):
        build_shard(folder, sampler, encoder, plan, number)


def build_shard(
    folder: Path, sampler: ConversationSampler, encoder: CallEncoder, plan: LMDataPlan, number: int
) -> None:
    """Writes one shard, unless it is there."""
    path = folder / f"calls_{number:04d}.npz"
    if path.exists():
        return
    rng = np.random.default_rng([plan.seed, number])
    calls = encoder.encode([sampler.sample(rng, plan.frames) for _ in range(plan.calls_per_shard)])
    partial = path.with_suffix(".part.npz")
    np.savez(
        partial,
        codes=np.stack([call.codes for call in calls]),
        asked=np.stack([call.asked for call in calls]),
        quiet=encoder.quiet,
    )
    os.replace(partial, path)


@dataclass(frozen=True)
class LMData:
    """All calls of a folder, in memory."""

    codes: NDArray[np.int16] = field(repr=False)  # [calls, frames, streams]
    asked: NDArray[np.int16] = field(repr=False)  # [calls, frames]
    quiet: NDArray[np.int16] = field(repr=False)  # [codebooks]

    @classmethod
    def open(cls, folder: Path) -> LMData:
        """The shards that are whole. Raises ConfigError when there are none."""
        shards = [np.load(path) for path in sorted(folder.glob("calls_????.npz"))]
        if not shards:
            raise ConfigError(f"no encoded calls in {folder}; build them with build_lm_data first")
        codes = np.concatenate([shard["codes"] for shard in shards])
        asked = np.concatenate([shard["asked"] for shard in shards])
        return cls(codes, asked, shards[0]["quiet"])

    def crops(
        self, rng: np.random.Generator, batch: int, frames: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Codes [batch, streams, frames] and what is asked [batch, frames]; some begin where a call begins."""
        calls = rng.integers(len(self.codes), size=batch)
        starts = rng.integers(-frames // 8, self.codes.shape[1] - frames + 1, size=batch).clip(min=0)
        codes = [self.codes[call, start : start + frames] for call, start in zip(calls, starts, strict=True)]
        asked = [self.asked[call, start : start + frames] for call, start in zip(calls, starts, strict=True)]
        return np.stack(codes).transpose(0, 2, 1).astype(np.int64), np.stack(asked).astype(np.int64)
