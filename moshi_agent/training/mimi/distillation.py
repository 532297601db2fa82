"""Distils a teacher's features into the semantic codebook.

Défossez et al. 2024, arXiv:2410.00037, section 3.3.2: the features, averaged over two frames of the codec
without regard to causality, are what a linear projection of the first quantizer's output should point at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Targets:
    """Holds what a teacher says of each frame of a batch."""

    features: Tensor = field(repr=False)  # [B, frames, dim]
    valid: Tensor  # [B, frames] bool, False where it says nothing

    def to(self, device: torch.device) -> Targets:
        """Copies them to a device."""
        return Targets(self.features.to(device), self.valid.to(device))


class Distillation(nn.Module):
    """Projects semantic latents to the teacher's features; it is needed in training alone."""

    def __init__(self, latent_dim: int, feature_dim: int) -> None:
        super().__init__()
        self.projection = nn.Linear(latent_dim, feature_dim)

    def forward(self, semantic: Tensor, targets: Targets) -> Tensor:
        """Computes the mean cosine distance, scalar, 0 to 2. semantic: [B, frames, latent_dim]."""
        return 1 - self.similarity(semantic, targets)

    def similarity(self, semantic: Tensor, targets: Targets) -> Tensor:
        """Computes the mean cosine to the teacher's features, scalar; 1 where it says nothing at all."""
        cosine = F.cosine_similarity(self.projection(semantic), targets.features, dim=2)
        valid = targets.valid.to(cosine.dtype)
        return 1 - ((1 - cosine) * valid).sum() / valid.sum().clamp(min=1)


def pool_features(
    features: Tensor, rate_hz: float, frame_rate_hz: float, count: int, start_s: float
) -> Targets:
    """Pools features [N, dim] of a whole recording to those of `count` frames of a piece, Targets of one row.

    Each frame's is the mean of what lies within one frame's length of its middle: with 50 features a second
    and 12.5 frames, of 8 every 4.
    """
    middles_s = start_s + (torch.arange(count, dtype=torch.float64) + 0.5) / frame_rate_hz
    reach_s = 1 / frame_rate_hz
    # Feature i has its middle at (i + 0.5) / rate.
    first = torch.ceil((middles_s - reach_s) * rate_hz - 0.5 - 1e-6).long().clamp(0, len(features))
    last = torch.ceil((middles_s + reach_s) * rate_hz - 0.5 - 1e-6).long().clamp(0, len(features))
    nearest = (middles_s * rate_hz).long().clamp(0, max(len(features) - 1, 0))
    empty = last <= first  # a teacher slower than the codec
    first, last = torch.where(empty, nearest, first), torch.where(empty, nearest + 1, last)
    offset = int(first.min())
    sums = F.pad(features[offset : int(last.max())].double().cumsum(0), (0, 0, 1, 0))
    pooled = (sums[last - offset] - sums[first - offset]) / (last - first)[:, None]
    valid = middles_s * rate_hz < len(features)
    return Targets(pooled.float()[None], valid[None])
