"""Gives a model low-rank updates to train (LoRA, Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math

import torch
from torch import nn

from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.linear import Int4Linear, Int8Linear, Linear, LoraLinear
from moshi_agent.training.finetune.config import LoraSettings


def add_low_rank(lm: LMModel, settings: LoraSettings, seed: int) -> None:
    """Gives every linear layer an update of nothing, in float32, and leaves only the updates to train.

    Raises:
        ConfigError: the model's weights are rounded, or have updates of their own already.
    """
    refuse_rounded(lm)
    lm.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    layers = [(name, module) for name, module in lm.named_modules() if isinstance(module, Linear)]
    for name, layer in layers:
        if isinstance(layer, LoraLinear):
            raise ConfigError("a model that has low-rank updates already; they have to be added to it first")
        owner_name, _, field = name.rpartition(".")
        setattr(lm.get_submodule(owner_name), field, _with_update(layer, settings, generator))
    if settings.ft_embed:
        for table in (module for module in lm.modules() if isinstance(module, nn.Embedding)):
            table.weight = nn.Parameter(table.weight.detach().float())


def refuse_rounded(lm: LMModel) -> None:
    """Raises ConfigError where weights are int8 or int4."""
    if any(isinstance(module, Int8Linear | Int4Linear) for module in lm.modules()):
        raise ConfigError(
            "weights that are int8 or int4 cannot be fine-tuned; take the checkpoint in bfloat16"
        )


def _with_update(layer: Linear, settings: LoraSettings, generator: torch.Generator) -> LoraLinear:
    with torch.device("meta"):
        wide = LoraLinear(
            layer.in_features,
            layer.out_features,
            settings.rank,
            settings.scaling,
            bias=layer.bias is not None,
        )
    wide.weight, wide.bias = layer.weight, layer.bias
    # As `nn.Linear` draws its weights, so that a change of the rank asks for no other learning rate.
    bound = 1 / math.sqrt(layer.in_features)
    a = torch.empty(settings.rank, layer.in_features).uniform_(-bound, bound, generator=generator)
    device = layer.weight.device
    wide.lora_A.weight = nn.Parameter(a.to(device))
    wide.lora_B.weight = nn.Parameter(torch.zeros(layer.out_features, settings.rank, device=device))
    return wide
