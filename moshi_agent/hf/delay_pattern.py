"""Codebooks that stand one step behind the first, as masks of what is known: -1 is yet to be generated."""

from __future__ import annotations

import torch
from torch import Tensor

from moshi_agent.errors import InputError


def build_delay_pattern_mask(
    codes: Tensor, bos_token_id: int, pad_token_id: int, max_length: int
) -> tuple[Tensor, Tensor]:
    """Moves all codebooks but the first one step back, and says what is known of so many steps.

    Args:
        codes: [B, K, T].
        bos_token_id: stands where a codebook has no code yet.
        pad_token_id: stands at the last step of the first codebook, which the others do not reach.

    Returns:
        What is known of the first T steps, [B, K, T], and the mask, [B, K, max_length].

    Raises:
        InputError: codes of another shape, or no room for a step.
    """
    if codes.dim() != 3 or max_length < 2:
        raise InputError(
            f"codes of shape {list(codes.shape)}, max_length={max_length}; accepted: [B, K, T], at least 2"
        )
    batch, books, steps = codes.shape
    kept = min(steps, max_length - 1)
    mask = torch.full((batch, books, max_length), -1, dtype=torch.long, device=codes.device)
    mask[:, 0, :kept] = codes[:, 0, :kept]
    mask[:, 1:, 1 : kept + 1] = codes[:, 1:, :kept]
    mask[:, 1:, 0] = bos_token_id
    mask[:, 0, -1] = pad_token_id
    return mask[..., :kept], mask


def apply_delay_pattern_mask(input_ids: Tensor, decoder_pad_token_mask: Tensor) -> Tensor:
    """The codes, [B, K, T], with what the mask knows, [B, K, T or more], in their place."""
    mask = decoder_pad_token_mask[..., : input_ids.shape[-1]]
    return torch.where(mask == -1, input_ids, mask)
