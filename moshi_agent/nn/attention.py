"""Multi-head attention: over the past, with or without a ring cache, and over given conditions."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from moshi_agent.config import TransformerConfig
from moshi_agent.nn import cache_attention
from moshi_agent.nn.kv_cache import LayerCache
from moshi_agent.nn.linear import Linear
from moshi_agent.nn.packing import PackFormat
from moshi_agent.nn.per_step import apply_per_step
from moshi_agent.nn.positions import Plan, rotate

_STEADY = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def steady_attention(device: torch.device) -> AbstractContextManager[object]:
    """Chooses which of PyTorch's attentions serve.

    On Hopper it would rather have cuDNN's, which is planned and compiled anew for every shape: for each
    number of rows, codebook and length of a prompt. The others are launched as they are.
    """
    return sdpa_kernel(_STEADY) if device.type == "cuda" else nullcontext()


class SelfAttention(nn.Module):
    """Attends to the past only. The depth transformer has one pair of projections per weight set."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        sets, kv_dim = config.num_weight_sets, config.num_kv_heads * config.head_dim
        self.in_projs = nn.ModuleList(Linear(config.dim, config.dim + 2 * kv_dim) for _ in range(sets))
        self.out_projs = nn.ModuleList(Linear(config.dim, config.dim) for _ in range(sets))

    def forward(self, x: Tensor, plan: Plan, cache: LayerCache | None) -> Tensor:
        """Computes [B, T, C] -> [B, T, C], and writes the cache where the plan says."""
        config = self.config
        projected = apply_per_step(self.in_projs, config, x, plan.first_step)
        heads = projected.unflatten(-1, (-1, config.head_dim))  # [B, T, H + 2 H_kv, D]
        interleaved = config.positional_embedding != "rope_concat"
        if plan.filled is not None:
            assert cache is not None and plan.slots is not None
            queries = cache_attention.store(heads[:, 0], cache, plan.slots[:, 0], plan.rotation, interleaved)
            y = cache_attention.attend(queries, cache, plan.filled, plan.length)[:, None]
            return apply_per_step(self.out_projs, config, y.flatten(2), plan.first_step)
        if plan.rotation is not None:
            rotated, values = heads.split(
                [config.num_heads + config.num_kv_heads, config.num_kv_heads], dim=2
            )
            rotated = rotate(rotated, plan.rotation, interleaved)
            heads = torch.cat([rotated, values], dim=2)
        queries, keys_values = heads.transpose(1, 2).split([config.num_heads, 2 * config.num_kv_heads], dim=1)
        keys_values = keys_values.unflatten(1, (2, config.num_kv_heads))  # [B, 2, H_kv, T, D]
        keys, values = _through_cache(cache, keys_values, plan).unbind(1)
        y = _attend(queries, keys, values, plan, config.kv_repeat > 1).transpose(1, 2)
        return apply_per_step(self.out_projs, config, y.flatten(2), plan.first_step)

    def pack(self, pack_format: PackFormat, norm: tuple[Tensor, Tensor | None], scale: Tensor | None) -> None:
        """Packs the projections, with the norm before them and the residual scale after them."""
        for in_proj, out_proj in zip(self.in_projs, self.out_projs, strict=True):
            assert isinstance(in_proj, Linear) and isinstance(out_proj, Linear)
            in_proj.pack(pack_format, input_scale=norm[0], input_shift=norm[1])
            out_proj.pack(pack_format, output_scale=scale)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, plan: Plan, grouped: bool) -> Tensor:
    """queries: [B, H, T, D], keys and values: [B, H_kv, L, D] -> [B, H, T, D]."""
    if plan.row_lengths is None:
        return F.scaled_dot_product_attention(queries, keys, values, plan.bias, enable_gqa=grouped)
    assert plan.bias is not None
    # Rows of one length together, the others apart: sums over as many positions as the row alone would
    # read have the same bits as alone.
    parts: list[Tensor] = []
    first = 0
    for length, run in groupby(plan.row_lengths):
        rows = slice(first, first := first + sum(1 for _ in run))
        parts.append(
            F.scaled_dot_product_attention(
                queries[rows],
                keys[rows, :, :length],
                values[rows, :, :length],
                plan.bias[rows, :, :, :length],
                enable_gqa=grouped,
            )
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _through_cache(cache: LayerCache | None, keys_values: Tensor, plan: Plan) -> Tensor:
    """Writes the chunk, [B, 2, H_kv, T, D], and returns all that is cached, [B, 2, H_kv, L, D].

    Rows that do not execute are written too: their offset stays, so the next chunk writes over it.
    """
    if cache is None:
        return keys_values
    if plan.rows is None or plan.slots is None:
        cache.write_lockstep(keys_values, plan.first_step)
    else:
        cache.write(keys_values.permute(0, 3, 1, 2, 4), plan.rows, plan.slots)
    return cache.read(plan.length, keys_values.dtype)


class CrossSource:
    """What each layer attends to all through a conversation, and the keys and values that it has made of it.

    Args:
        tensor: [B or 1, S, C].
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._made: dict[CrossAttention, Tensor] = {}

    def projected_by(self, layer: CrossAttention) -> Tensor:
        """Returns a layer's keys and values, [B or 1, S, 2 C]: made once, unless it may be in training."""
        if torch.is_grad_enabled():
            return layer.project(self.tensor)
        if layer not in self._made:
            self._made[layer] = layer.project(self.tensor)
        return self._made[layer]


class CrossAttention(nn.Module):
    """Attends to conditions that stay the same through the conversation."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.in_projs = nn.ModuleList([Linear(config.dim, 3 * config.dim)])
        self.out_projs = nn.ModuleList([Linear(config.dim, config.dim)])

    @property
    def _weight(self) -> Tensor:
        """That of queries, keys and values, [3 C, C]."""
        in_proj = self.in_projs[0]
        assert isinstance(in_proj, Linear)
        return in_proj.whole_weight()

    def project(self, source: Tensor) -> Tensor:
        """Makes keys and values, [B or 1, S, C] -> [B or 1, S, 2 C]."""
        return F.linear(source, self._weight[self.config.dim :])

    def forward(self, x: Tensor, source: CrossSource) -> Tensor:
        """Computes [B, T, C] -> [B, T, C]."""
        config = self.config
        queries = F.linear(x, self._weight[: config.dim])
        keys, values = source.projected_by(self).chunk(2, dim=-1)
        heads = [
            part.unflatten(-1, (config.num_heads, -1)).transpose(1, 2) for part in (queries, keys, values)
        ]
        batch = x.shape[0]
        keys, values = (part.expand(batch, -1, -1, -1) for part in heads[1:])
        y = F.scaled_dot_product_attention(heads[0], keys, values)
        return self.out_projs[0](y.transpose(1, 2).flatten(2))
