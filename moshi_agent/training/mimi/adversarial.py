"""The adversarial losses: hinges on the discriminator's verdicts, and distances between its features.

Défossez et al. 2022, arXiv:2210.13438, section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.training.mimi.discriminator import Verdict


def discriminator_loss(real: Sequence[Verdict], decoded: Sequence[Verdict]) -> Tensor:
    """Computes both hinges, the mean over scales: 2 where it cannot tell, 0 where it is always sure."""
    hinges = [
        F.relu(1 - right.logits).mean() + F.relu(1 + wrong.logits).mean()
        for right, wrong in zip(real, decoded, strict=True)
    ]
    return torch.stack(hinges).mean()


def adversarial_loss(decoded: Sequence[Verdict]) -> Tensor:
    """Computes what the codec makes smaller: below 0 where it passes for real."""
    return -torch.stack([verdict.logits.mean() for verdict in decoded]).mean()


def feature_loss(real: Sequence[Verdict], decoded: Sequence[Verdict]) -> Tensor:
    """Computes the mean absolute difference of features over all layers and scales; real ones are given."""
    distances = [
        F.l1_loss(ours, theirs.detach())
        for right, wrong in zip(real, decoded, strict=True)
        for ours, theirs in zip(wrong.features, right.features, strict=True)
    ]
    return torch.stack(distances).mean()
