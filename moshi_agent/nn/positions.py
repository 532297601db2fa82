"""Where the steps of a chunk stand: computed once for all layers of a transformer.

A `Plan` holds the rotation of queries and keys, which cached positions each query may see, and
where the new keys and values are written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.config import TransformerConfig


@dataclass
class Plan:
    """Holds one chunk's positions, for every layer."""

    rotation: Tensor | None  # complex [B or 1, T, 1, head_dim / 2]
    bias: Tensor | None  # [B or 1, 1, T, L] added to the attention's scores; None sees everything
    first_step: int = 0  # which weights serve the first step, where steps have their own
    rows: Tensor | None = None  # [B, 1] and
    slots: Tensor | None = None  # [B, T]: where in the ring the chunk goes; in lockstep, to `first_step`
    length: int = 0  # L: cached positions that can hold anything yet
    row_lengths: tuple[int, ...] | None = None  # the same of each row; None reads L in all of them
    filled: Tensor | None = None  # [B] int32, slots to see; `cache_attention` then serves, without a bias


def plan_whole(config: TransformerConfig, x: Tensor) -> Plan:
    """Plans a sequence from its beginning to its end, without a cache. x: [B, T, C]."""
    steps = x.shape[1]
    positions = torch.arange(steps, device=x.device)
    age = positions[:, None] - positions[None, :]  # [T, T]
    visible = age >= 0
    if config.context is not None:
        visible &= age < config.context
    return Plan(_rotation(config, positions[None]), _bias(visible[None], x.dtype))


def plan_ring(
    config: TransformerConfig, x: Tensor, offset: Tensor, capacity: int, length: int | None
) -> Plan:
    """Plans the next chunk of each row, in a ring of `capacity` positions of which `length` are read.

    Where `length` is None each row reads as far as it has come itself, which takes a look at the
    offsets. Row b's chunk begins at position offset[b]. x: [B, T, C], offset: [B]. Where the ring is as
    long as the context, the first queries of a chunk of several steps lose the oldest positions
    to the chunk's own last ones: that is what the published models do when they stream.
    """
    batch, steps, _ = x.shape
    row_lengths = None
    if length is None:
        row_lengths = tuple(min(capacity, start + steps) for start in offset.tolist())
        length = max(row_lengths)
    positions = offset[:, None] + torch.arange(steps, device=x.device)  # [B, T]
    last = positions[:, -1:]
    slot = torch.arange(length, device=x.device)[None]  # [1, L]
    held = last - (last - slot) % capacity  # [B, L] the position in each slot; negative before the first turn
    age = positions[:, :, None] - held[:, None, :]  # [B, T, L]
    visible = (held[:, None, :] >= 0) & (age >= 0)
    if config.context is not None and config.context < capacity + steps - 1:
        visible &= age < config.context
    rows = torch.arange(batch, device=x.device)[:, None]
    return Plan(
        _rotation(config, positions),
        _bias(visible, x.dtype),
        rows=rows,
        slots=positions % capacity,
        length=length,
        row_lengths=row_lengths,
    )


def plan_single(
    config: TransformerConfig, offset: Tensor, capacity: int, length: int, exec_mask: Tensor | None
) -> Plan:
    """Plans each row's next single step for `cache_attention`; rows that do not execute see nothing.

    offset: [B], exec_mask: [B] bool or None for all. The ring is as long as the context.
    """
    filled = (offset + 1).clamp(max=length)
    if exec_mask is not None:
        filled = filled * exec_mask
    positions = offset[:, None]
    return Plan(
        _rotation(config, positions),
        None,
        slots=positions % capacity,
        length=length,
        filled=filled.to(torch.int32),
    )


def plan_lockstep(config: TransformerConfig, positions: Tensor, step: int) -> Plan:
    """Plans one step that all rows take together, as in the depth transformer. positions: [1, 1]."""
    return Plan(_rotation(config, positions), None, first_step=step, length=step + 1)


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T, L] bool -> [B, 1, T, L]: 0 where visible, else minus infinity."""
    *shape, length = visible.shape
    # CUDA's attention wants aligned rows, and would otherwise make some in every layer.
    width = -(-length // 16) * 16 if visible.is_cuda else length
    bias = torch.zeros(*shape, width, dtype=dtype, device=visible.device)[..., :length]
    return bias.masked_fill_(~visible, -torch.inf)[:, None]


def _rotation(config: TransformerConfig, positions: Tensor) -> Tensor | None:
    """Unit complex numbers of RoPE (Su et al. 2022, arXiv:2104.09864). positions: [B, T]."""
    if config.positional_embedding not in ("rope", "sin_rope", "rope_concat"):
        return None
    half = config.head_dim // 2
    index = torch.arange(half, device=positions.device, dtype=torch.float32)
    frequencies = torch.exp(index * (-math.log(config.max_period) * 2 / config.head_dim))
    phase = positions[:, :, None, None].float() * frequencies
    return torch.polar(torch.ones_like(phase), phase)


def rotate(x: Tensor, rotation: Tensor, interleaved: bool) -> Tensor:
    """Applies RoPE. x: [B, T, H, D]; interleaved pairs are (0, 1), (2, 3), ..., else (i, i + D / 2)."""
    values = x.float()
    if interleaved:
        pairs = torch.view_as_complex(values.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)
    real, imaginary = values.chunk(2, dim=-1)
    rotated = torch.complex(real.contiguous(), imaginary.contiguous()) * rotation
    return torch.cat([rotated.real, rotated.imag], dim=-1).to(x.dtype)


def sine_embedding(positions: Tensor, dim: int, max_period: float, dtype: torch.dtype) -> Tensor:
    """Computes cosines and sines of the positions. [B, T] -> [B, T, dim]."""
    half = dim // 2
    index = torch.arange(half, device=positions.device, dtype=dtype)
    periods = torch.full((), max_period, device=positions.device, dtype=dtype) ** (index / (half - 1))
    phase = positions[..., None].to(dtype) / periods
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)
