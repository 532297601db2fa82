"""Writes a model as a folder in Kyutai's format, which Kyutai's own package reads as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moshi_agent.checkpoint.format import REFERENCES_NAME
from moshi_agent.checkpoint.kyutai.config import write_moshi_config
from moshi_agent.checkpoint.kyutai.mimi_config import write_mimi_config
from moshi_agent.checkpoint.kyutai.names import mimi_to_kyutai
from moshi_agent.checkpoint.write import copy_file, make_folder, write_json, write_tensors
from moshi_agent.config import LoraConfig
from moshi_agent.errors import CheckpointError
from moshi_agent.models.lm import AHEAD_TABLE, REFERENCES_TABLE, LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.conv import CausalConvTranspose1d
from moshi_agent.nn.linear import Int4Linear

LM_NAME = "model.safetensors"
MIMI_NAME = "mimi.safetensors"
MIMI_CONFIG_NAME = "mimi_config.json"


def save_kyutai(
    folder: str | Path,
    mimi: MimiModel,
    lm: LMModel,
    tokenizer: str | Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    model_type: str = "moshi",
    lm_gen_config: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json`, the codec's configuration, the weight files and the tokenizer into `folder`.

    A table for references has a file of its own, so that Kyutai's package takes the others as they are.

    Args:
        tokenizer: the sentencepiece model to put beside the weights; it keeps its name.
        dtype: of the weights on disk. Codebooks, conditions and int8 scales stay float32.
        lm_gen_config: arguments of `LMGen` that go with this model.

    Raises:
        CheckpointError: a model that is packed, has low-rank updates kept apart, or int4 weights.
        OutputError: a file cannot be written; those before it are.
    """
    folder, tokenizer = Path(folder), Path(tokenizer)
    lm_tensors, codec_tensors = _lm_tensors(lm, dtype), mimi_tensors(mimi, dtype)
    if not tokenizer.is_file():
        raise CheckpointError(f"{tokenizer}: no such file")
    make_folder(folder)
    copy_file(tokenizer, folder / tokenizer.name)
    write_tensors(folder / MIMI_NAME, codec_tensors)
    table = lm_tensors.pop(REFERENCES_TABLE, None)
    write_tensors(folder / LM_NAME, lm_tensors)
    if table is not None:
        name = AHEAD_TABLE if lm.is_told_ahead else REFERENCES_TABLE
        write_tensors(folder / REFERENCES_NAME, {name: table})
    write_json(folder / MIMI_CONFIG_NAME, write_mimi_config(mimi.config))
    names = {
        "moshi_name": LM_NAME,
        "mimi_name": MIMI_NAME,
        "mimi_config_name": MIMI_CONFIG_NAME,
        "tokenizer_name": tokenizer.name,
        "model_type": model_type,
        "lm_gen_config": dict(lm_gen_config or {}),
    }
    write_json(folder / "config.json", write_moshi_config(lm.config) | names)


def _lm_tensors(lm: LMModel, dtype: torch.dtype) -> dict[str, Tensor]:
    refuse_packed(lm)
    if isinstance(lm.config.lora, LoraConfig):
        raise CheckpointError("a model with low-rank updates cannot be written; fuse them first (fuse_lora)")
    if any(isinstance(module, Int4Linear) for module in lm.modules()):
        raise CheckpointError(
            "no format has our int4 weights; write the checkpoint as it was loaded in floats"
        )
    tensors = lm.state_dict()
    exact = ("condition_provider.",)
    return {
        name: tensor if name.startswith(exact) or name.endswith("weight_scb") else _stored(tensor, dtype)
        for name, tensor in tensors.items()
    }


def mimi_tensors(mimi: MimiModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Lists a codec's tensors by Kyutai's names.

    The codebooks stay as they are: a rounded centroid changes codes.
    """
    refuse_packed(mimi)
    tensors: dict[str, Tensor] = {}
    for name, tensor in mimi.state_dict().items():
        owner = mimi.get_submodule(name.rpartition(".")[0])
        stored = tensor if ".codebooks." in name else _stored(tensor, dtype)
        theirs, stored = mimi_to_kyutai(name, stored, isinstance(owner, CausalConvTranspose1d))
        tensors[theirs] = stored
    return tensors


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def refuse_packed(model: nn.Module) -> None:
    """Raises CheckpointError where there are no plain weights to write."""
    if any(getattr(module, "product", None) is not None for module in model.modules()):
        raise CheckpointError("a packed model has no plain weights to write; save it before it is packed")
