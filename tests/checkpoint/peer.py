"""Kyutai's own package beside ours, where it is installed; elsewhere the tests that need it are skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moshi_agent.models import LMGen
from moshi_agent.models.lm import LMModel


def peer_checkpoint(folder: Path) -> Any:
    """The peer's `CheckpointInfo` of a folder in its format."""
    config = json.loads((folder / "config.json").read_text())
    return _peer_models().loaders.CheckpointInfo.from_hf_repo(
        "none",
        config_path=folder / "config.json",
        moshi_weights=folder / config["moshi_name"],
        mimi_weights=folder / config["mimi_name"],
        tokenizer=folder / config["tokenizer_name"],
        mimi_config_path=folder / config["mimi_config_name"],
    )


def peer_codec(folder: Path, num_codebooks: int) -> Any:
    """The peer's codec, of a folder that `save_codec` wrote."""
    config = json.loads((folder / "mimi_config.json").read_text())
    return _peer_models().loaders.get_mimi(folder / "mimi.safetensors", config, num_codebooks=num_codebooks)


def greedy_tokens(lm: LMModel, user: Tensor) -> Tensor:
    """What ours says to the caller's codes [rows, codebooks, steps] -> [rows, 1 + dep_q, steps - delay]."""
    return _said(LMGen(lm, use_sampling=False), user)


def peer_greedy_tokens(info: Any, user: Tensor) -> Tensor:
    """The same of the peer's model."""
    return _said(_peer_models().LMGen(info.get_moshi(dtype=torch.float32), use_sampling=False), user)


def _said(generator: Any, user: Tensor) -> Tensor:
    with generator.streaming(len(user)):
        outputs = [generator.step(frame) for frame in user.split(1, dim=2)]
    return torch.cat([tokens for tokens in outputs if tokens is not None], dim=-1)


def _peer_models() -> Any:
    return pytest.importorskip("moshi.models", reason="Kyutai's package `moshi` is not installed")
