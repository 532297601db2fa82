"""Running averages of weights: what a training hands over is steadier than its last step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves the parameters of `average` towards those of `model`; faster in the first steps. Buffers are copied."""
    decay = min(decay, (1 + step) / (10 + step))
    ours: Sequence[Tensor] = list(average.parameters())
    theirs: Sequence[Tensor] = list(model.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore[reportPrivateUsage]
    for mine, its in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(its)
