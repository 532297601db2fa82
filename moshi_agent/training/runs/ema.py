"""Keeps running averages of weights: they are steadier than the weights after the last step."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves the parameters of `average` towards those of `model`, faster at first. Buffers are copied."""
    decay = min(decay, (1 + step) / (10 + step))
    for mine, its in zip(average.parameters(), model.parameters(), strict=True):
        mine.lerp_(its, 1 - decay)
    for mine, its in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(its)
