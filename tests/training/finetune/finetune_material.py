"""A small checkpoint to fine-tune, and conversations in which the answer follows from what is heard."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moshi_agent.checkpoint import save_kyutai
from moshi_agent.models.lm import LMModel
from moshi_agent.training.finetune.config import FineTuneConfig, LoraSettings, ModelPaths, OptimConfig
from moshi_agent.training.stereo.dataset import NOTHING, Batch
from tests.small_models import small_lm_config, small_mimi
from tests.training.stereo.conversations_on_disk import write_conversation, write_listing

TOKENIZER = Path(__file__).parents[2] / "golden" / "tokenizer_spm.model"
FRAMES = 20


def small_model() -> LMModel:
    """As `small_lm`, with the text of the tokenizer that goes with it."""
    torch.manual_seed(0)
    lm = LMModel(dataclasses.replace(small_lm_config(), text_card=400))
    lm.init_weights()
    return lm.eval()


def small_checkpoint(folder: Path) -> Path:
    """A checkpoint of random weights, in float32."""
    mimi = small_mimi()
    save_kyutai(folder, mimi, small_model(), TOKENIZER, dtype=torch.float32)
    return folder


def conversations(folder: Path, count: int = 3) -> Path:
    """Stereo files of tones, with words; the manifest."""
    return write_listing(
        folder, [write_conversation(folder / f"call{number}.wav") for number in range(count)]
    )


class Echoes:
    """The model says in each frame what it hears in the next: text and codes follow from the user's codes."""

    def __init__(self, frames: int = FRAMES, valid: int | None = None) -> None:
        self.frames = frames
        self.valid = frames if valid is None else valid

    def batch(self, step: int, size: int, *, rank: int = 0, ranks: int = 1) -> Batch:
        rng = np.random.default_rng([5, step * ranks + rank])
        heard = np.repeat(rng.integers(0, 8, size=(size, 1, self.frames // 5)), 5, axis=2)
        codes = np.concatenate([4 + heard, heard, heard + 8, heard, heard + 8], axis=1)
        codes[:, :, self.valid :] = NOTHING
        return Batch(torch.from_numpy(codes), torch.full((size,), self.valid), [None] * size)

    def in_order(self, size: int, *, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        assert (rank, ranks) == (0, 1)
        return (self.batch(1000 + number, size) for number in range(3))


def configuration(checkpoint: Path, run_dir: Path, **changes: Any) -> FineTuneConfig:
    """Low-rank updates of a small checkpoint, in float32."""
    values = {
        "run_dir": run_dir,
        "moshi_paths": ModelPaths(hf_repo_id=str(checkpoint)),
        "lora": LoraSettings(enable=True, rank=4),
        "optim": OptimConfig(lr=1e-2),
        "batch_size": 4,
        "max_steps": 12,
        "param_dtype": "float32",
        "gradient_checkpointing": False,
    }
    return FineTuneConfig(**(values | changes))


def metrics(run_dir: Path, kind: str = "train") -> list[dict[str, Any]]:
    """What `metrics.jsonl` has of one kind."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]
