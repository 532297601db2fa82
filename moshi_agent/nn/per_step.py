"""Weights of their own for each step, as the depth transformer has for each codebook."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from moshi_agent.config import TransformerConfig


def apply_per_step(modules: nn.ModuleList, config: TransformerConfig, x: Tensor, first_step: int) -> Tensor:
    """Sends step t of x, [B, T, C], through the weight set of step `first_step + t`. -> [B, T, C']."""
    if len(modules) == 1:
        return cast(Tensor, modules[0](x))
    steps = x.shape[1]
    if steps == 1:
        return cast(Tensor, modules[config.weight_set(first_step)](x))
    # Two dimensions: of three that do not lie in one piece, torch would multiply row by row.
    parts = [modules[config.weight_set(first_step + t)](x[:, t]) for t in range(steps)]
    return torch.stack(parts, dim=1)
