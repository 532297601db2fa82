"""Builds Mimi and the language model from weight files."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from moshi_agent.checkpoint.kyutai_names import mimi_from_kyutai, unstacked
from moshi_agent.checkpoint.tensors import assign_tensors, cast_floats, read_tensors
from moshi_agent.config import LoraConfig, MimiConfig, MoshiConfig
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.linear import Int8Linear, Linear, LoraLinear


def build_mimi(config: MimiConfig, path: Path | None, device: str = "cpu") -> MimiModel:
    """Mimi with the weights of a file in Kyutai's format, or drawn anew without one.

    Raises:
        CheckpointError: a file that is damaged or does not fit the configuration.
    """
    if path is None:
        return MimiModel(config).to(device).eval()
    stacked = read_tensors(path, device)
    today = [pair for name, tensor in stacked.items() for pair in unstacked(name, tensor)]
    tensors = dict(mimi_from_kyutai(name, tensor) for name, tensor in today)
    return fill_mimi(config, tensors, path, device)


def fill_mimi(config: MimiConfig, tensors: dict[str, Tensor], source: Path, device: str) -> MimiModel:
    """Mimi with these tensors, by our names, in float32: the codec does not bear less."""
    for part, count in (("first", config.quantizer.n_q_semantic), ("rest", config.quantizer.n_q)):
        for index in range(count):
            # Files written before the flag existed hold trained codebooks.
            name = f"quantizer.rvq_{part}.codebooks.{index}."
            if name + "embedding_sum" in tensors:
                tensors.setdefault(name + "initialized", torch.ones(1))
    with torch.device("meta"):
        model = MimiModel(config)
    assign_tensors(model, dict(cast_floats(tensors.items(), torch.float32)), source)
    model._like = torch.empty(0, device=device)
    return model.eval()


def build_lm(
    config: MoshiConfig,
    path: Path | None,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    lora_path: Path | None = None,
    fuse_lora: bool = True,
) -> LMModel:
    """The language model with the weights of a file in Kyutai's format, or drawn anew without one.

    Args:
        lora_path: low-rank updates, for a configuration that has them.
        fuse_lora: adds the updates to the weights; else they are kept apart.

    Raises:
        CheckpointError: a file that is damaged or does not fit the configuration.
        ConfigError: low-rank updates on int8 weights, or a file of them without a configuration for it.
    """
    if path is None:
        model = LMModel(config)
        model.init_weights()
        return model.to(device, dtype).eval()
    tensors = read_kyutai_lm(config, path, device)
    model = fill_lm(config, tensors, path, device, dtype)
    if lora_path is not None:
        _add_lora(model, config, lora_path, device, dtype, fuse_lora)
    elif config.lora is not None:
        raise ConfigError("the configuration has low-rank updates (lora), and no file of them was given")
    return model


def read_kyutai_lm(config: MoshiConfig, path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a file in Kyutai's format, by our names."""
    depth_sets = config.depth.transformer.num_weight_sets if config.depth else 1
    tensors: dict[str, Tensor] = {}
    for name, tensor in read_tensors(path, device).items():
        sets = depth_sets if name.startswith("depformer.") else 1
        tensors.update(unstacked(name, tensor, sets))
    return tensors


def fill_lm(
    config: MoshiConfig, tensors: dict[str, Tensor], source: Path, device: str, dtype: torch.dtype
) -> LMModel:
    """The language model with these tensors, by our names."""
    with torch.device("meta"):
        model = LMModel(config)
        if any(name.endswith("weight_scb") for name in tensors):
            _replace_linears(model, lambda name, layer: Int8Linear(layer.in_features, layer.out_features))
    assign_tensors(model, dict(_in_own_types(tensors, dtype)), source)
    model._like = torch.empty(0, device=device, dtype=dtype)
    return model.eval()


def _in_own_types(tensors: dict[str, Tensor], dtype: torch.dtype):
    """Conditions and int8 scales stay float32, everything else that is floating becomes `dtype`."""
    for name, tensor in tensors.items():
        single = name.startswith("condition_provider.") or name.endswith("weight_scb")
        own = torch.float32 if single else dtype
        yield name, tensor.to(own) if tensor.is_floating_point() else tensor


def _replace_linears(model: nn.Module, make) -> None:
    for name, module in list(model.named_modules()):
        if type(module) is not Linear or name.startswith("condition_provider"):
            continue
        owner_name, _, field = name.rpartition(".")
        setattr(model.get_submodule(owner_name), field, make(name, module))


def _add_lora(
    model: LMModel, config: MoshiConfig, path: Path, device: str, dtype: torch.dtype, fuse: bool
) -> None:
    lora = config.lora or LoraConfig()
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        raise ConfigError("low-rank updates cannot be added to int8 weights; load the bfloat16 checkpoint")
    tensors = dict(cast_floats(read_kyutai_lm(config, path, device).items(), dtype))
    with torch.device("meta"):
        _replace_linears(model, lambda name, layer: LoraLinear(layer.in_features, layer.out_features, lora.rank, lora.scaling))
    _ = cast, fuse, tensors
