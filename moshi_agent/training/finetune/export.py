"""Writes what a fine-tuning gives: files that this package and Kyutai's load.

Low-rank updates are `lora.safetensors` beside a `config.json` that says so, as moshi-finetune writes them. A
model that was trained as a whole, or has the updates added to its weights, is a checkpoint of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moshi_agent.checkpoint.format import REFERENCES_NAME
from moshi_agent.checkpoint.kyutai.config import MOSHI_7B
from moshi_agent.checkpoint.kyutai.files import KyutaiFiles
from moshi_agent.checkpoint.kyutai.save import LM_NAME, MIMI_CONFIG_NAME
from moshi_agent.checkpoint.tensors import tensor_names
from moshi_agent.checkpoint.write import copy_file, write_json, write_tensors
from moshi_agent.models.lm import AHEAD_TABLE, REFERENCES_TABLE
from moshi_agent.training.finetune.config import LoraSettings

LORA_NAME = "lora.safetensors"
_LORA_A, _LORA_B = ".lora_A.weight", ".lora_B.weight"


def write_lora(
    folder: Path,
    files: KyutaiFiles,
    weights: Mapping[str, Tensor],
    settings: LoraSettings,
    dtype: torch.dtype,
) -> None:
    """Writes low-rank updates, and tables that were trained with them.

    Args:
        files: of the checkpoint that they are for.
        weights: all that was trained, by the model's names.
        dtype: of the tensors on disk.

    Raises:
        OutputError: a file cannot be written.
    """
    tensors = {name: tensor.to(dtype) for name, tensor in weights.items()}
    _write_references(folder, files, tensors)
    write_tensors(folder / LORA_NAME, tensors)
    lora = {"lora": True, "lora_rank": settings.rank, "lora_scaling": settings.scaling}
    write_json(folder / "config.json", (files.raw_config or MOSHI_7B) | lora)


def write_model(
    folder: Path, files: KyutaiFiles, weights: Mapping[str, Tensor], scaling: float, dtype: torch.dtype
) -> None:
    """Writes a whole checkpoint: the codec and the tokenizer of the one it comes from, and the model.

    Args:
        files: of the checkpoint that was fine-tuned.
        weights: all of the model; low-rank updates among them are added to what they are for.
        scaling: of the updates.
        dtype: of the weights on disk. Conditions stay float32.

    Raises:
        OutputError: a file cannot be written.
    """
    tensors = {
        name: tensor.float() if name.startswith("condition_provider.") else tensor.to(dtype)
        for name, tensor in fused(weights, scaling).items()
    }
    for path in (files.mimi_weights, files.tokenizer):
        copy_file(path, folder / path.name)
    _write_references(folder, files, tensors)
    write_tensors(folder / LM_NAME, tensors)
    config: dict[str, Any] = (files.raw_config or MOSHI_7B) | {
        "moshi_name": LM_NAME,
        "mimi_name": files.mimi_weights.name,
        "tokenizer_name": files.tokenizer.name,
    }
    if files.lm_config is not None and "dep_q" in config:
        config["dep_q"] = files.lm_config["dep_q"]  # depth steps that the model does without are not written
    for key in ("lora", "lora_rank", "lora_scaling", "lora_name"):
        config.pop(key, None)
    if files.mimi_config is not None:
        write_json(folder / MIMI_CONFIG_NAME, files.mimi_config)
        config["mimi_config_name"] = MIMI_CONFIG_NAME
    write_json(folder / "config.json", config)


def _write_references(folder: Path, files: KyutaiFiles, tensors: dict[str, Tensor]) -> None:
    """Moves the table for references into a file of its own: Kyutai's package then reads the rest."""
    table = tensors.pop(REFERENCES_TABLE, None)
    if table is not None:
        is_ahead = files.references is not None and AHEAD_TABLE in tensor_names(files.references)
        write_tensors(folder / REFERENCES_NAME, {AHEAD_TABLE if is_ahead else REFERENCES_TABLE: table})


def fused(weights: Mapping[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """Adds low-rank updates to their weights, computed in float32, and leaves the updates out."""
    whole: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith((_LORA_A, _LORA_B)):
            continue
        layer = name.removesuffix(".weight")
        a, b = weights.get(layer + _LORA_A), weights.get(layer + _LORA_B)
        whole[name] = weight if a is None or b is None else weight.float().addmm(b, a, alpha=scaling)
    return whole
