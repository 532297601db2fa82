"""Streams shifted by their delays, over whole sequences; `TokenRing` does it step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def delayed(codes: Tensor, delays: Sequence[int], initial: Tensor) -> Tensor:
    """Puts each stream behind its initial token and its delay. [B, K, T], K delays, [K] -> [B, K, T + 1]."""
    batch, _, steps = codes.shape
    shifted = initial[None, :, None].repeat(batch, 1, steps + 1)
    for stream, delay in enumerate(delays):
        if delay < steps:
            shifted[:, stream, 1 + delay :] = codes[:, stream, : steps - delay]
    return shifted


def undelayed(logits: Tensor, delays: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Puts logits back at the codes they predict, [B, K, T, card], and marks those that exist, [B, K, T]."""
    aligned = torch.full_like(logits, torch.nan)
    mask = torch.zeros(logits.shape[:3], dtype=torch.bool, device=logits.device)
    for stream, delay in enumerate(delays):
        steps = max(logits.shape[2] - delay, 0)
        aligned[:, stream, :steps] = logits[:, stream, delay:]
        mask[:, stream, :steps] = True
    return aligned, mask
