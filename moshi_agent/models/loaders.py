"""The loaders that Moshi's users know, by their names and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from moshi_agent.checkpoint.models import build_lm, build_mimi
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel

SAMPLE_RATE = 24_000
FRAME_RATE = 12.5
DEFAULT_REPO = "kyutai/moshiko-pytorch-bf16"
MOSHI_NAME = "model.safetensors"
MOSHI_Q8_NAME = "model.q8.safetensors"
MIMI_NAME = "tokenizer-e351c8d8-checkpoint125.safetensors"
TEXT_TOKENIZER_NAME = "tokenizer_spm_32k_3.model"


def get_mimi(
    filename: str | Path | None,
    mimi_config: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    num_codebooks: int = 8,
) -> MimiModel:
    """Mimi from a file in Kyutai's format, or with random weights where `filename` is None.

    Raises:
        ConfigError, CheckpointError: see `moshi_agent.errors`.
    """
    path = None if filename is None else Path(filename)
    model = build_mimi(MimiConfig.from_dict(mimi_config), path, str(device))
    model.set_num_codebooks(num_codebooks)
    return model


def get_moshi_lm(
    filename: str | Path | None,
    lm_kwargs: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    lora_weights: str | Path | None = None,
    fuse_lora: bool = False,
    lm_kwargs_overrides: Mapping[str, Any] | None = None,
) -> LMModel:
    """The language model from a file in Kyutai's format, or with random weights where `filename` is None.

    Raises:
        ConfigError, CheckpointError: see `moshi_agent.errors`.
    """
    if lm_kwargs_overrides:
        from moshi_agent.kyutai_config import MOSHI_7B

        lm_kwargs = {**(MOSHI_7B if lm_kwargs is None else lm_kwargs), **lm_kwargs_overrides}
    return build_lm(
        MoshiConfig.from_dict(lm_kwargs),
        None if filename is None else Path(filename),
        str(device),
        dtype,
        None if lora_weights is None else Path(lora_weights),
        fuse_lora,
    )
