"""The transformer that serves everywhere: in Mimi, over time in the language model, over codebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from moshi_agent.config import TransformerConfig
from moshi_agent.errors import ConfigError
from moshi_agent.nn import cache_attention
from moshi_agent.nn.attention import CrossAttention, CrossSource, SelfAttention
from moshi_agent.nn.feedforward import GatedFeedForward
from moshi_agent.nn.kv_cache import SCALE_DTYPE, LayerCache
from moshi_agent.nn.linear import Linear
from moshi_agent.nn.native.transformers import LayerProducts, NativeTransformer, native_transformer
from moshi_agent.nn.norm import LayerNorm, LayerScale, make_norm
from moshi_agent.nn.packing import PackFormat
from moshi_agent.nn.per_step import apply_per_step
from moshi_agent.nn.positions import (
    Plan,
    plan_lockstep,
    plan_ring,
    plan_single,
    plan_whole,
    sine_embedding,
)
from moshi_agent.nn.state import State, keep


@dataclass
class TransformerState(State):
    offset: Tensor  # [B] int64, steps taken
    kv: Tensor  # [B, layers, 2, H_kv, capacity, D] a ring over positions
    kv_scales: Tensor | None = None  # [B, layers, 2, H_kv, capacity] float16, where `kv` is int8

    @property
    def capacity(self) -> int:
        """Counts the positions in the ring."""
        return self.kv.shape[4]

    def layers(self) -> list[LayerCache]:
        """Returns the cache of every layer, as views."""
        return _layers(self.kv, self.kv_scales)

    def first_positions(self, positions: int) -> TransformerState:
        """Returns the first positions of the ring alone, as views of every row."""
        scales = None if self.kv_scales is None else self.kv_scales[:, :, :, :, :positions]
        return TransformerState(self.offset, self.kv[:, :, :, :, :positions], scales)

    def row_parts(self, row: int) -> Iterator[Tensor]:
        """Lists of the caches only what is filled: a small part of the ring in a young conversation."""
        yield self.offset[row]
        filled = min(self.capacity, max(0, int(self.offset[row])))
        yield self.kv[row, :, :, :, :filled]
        if self.kv_scales is not None:
            yield self.kv_scales[row, :, :, :, :filled]


def _layers(kv: Tensor, scales: Tensor | None) -> list[LayerCache]:
    # Not `unbind`: autograd lets nobody write to what it returns.
    return [LayerCache(kv[:, i], None if scales is None else scales[:, i]) for i in range(kv.shape[1])]


class TransformerLayer(nn.Module):
    """Applies attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.self_attn = SelfAttention(config)
        self.norm1 = make_norm(config.norm, config.dim)
        self.norm2 = make_norm(config.norm, config.dim)
        self.gating = _make_gating(config)
        if self.gating is None:
            assert isinstance(config.dim_feedforward, int)
            self.linear1 = Linear(config.dim, config.dim_feedforward)
            self.linear2 = Linear(config.dim_feedforward, config.dim)
        self.layer_scale_1 = _make_scale(config)
        self.layer_scale_2 = _make_scale(config)
        if config.cross_attention:
            self.cross_attention = CrossAttention(config)
            self.norm_cross = LayerNorm(config.dim)
            self.layer_scale_cross = _make_scale(config)

    def forward(
        self, x: Tensor, plan: Plan, cache: LayerCache | None, cross: CrossSource | None = None
    ) -> Tensor:
        """Computes [B, T, C] -> [B, T, C]."""
        change = self.layer_scale_1(self.self_attn(self.norm1(x), plan, cache))
        if self.config.cross_attention:
            assert cross is not None
            x = x + change
            change = self.layer_scale_cross(self.cross_attention(self.norm_cross(x), cross))
        x, normed = self.norm2.after_adding(x, change)
        return x + self.layer_scale_2(self._feed_forward(normed, plan.first_step))

    def _feed_forward(self, x: Tensor, first_step: int) -> Tensor:
        if self.gating is None:
            return self.linear2(F.gelu(self.linear1(x)))
        if isinstance(self.gating, nn.ModuleList):
            return apply_per_step(self.gating, self.config, x, first_step)
        return self.gating(x)

    def pack(self, pack_format: PackFormat) -> None:
        """Packs the weights for the CPU, with norms and residual scales taken into them."""
        self.self_attn.pack(pack_format, self.norm1.release_affine(), _release(self.layer_scale_1))
        norm, scale = self.norm2.release_affine(), _release(self.layer_scale_2)
        if self.gating is None:
            self.linear1.pack(pack_format, input_scale=norm[0], input_shift=norm[1])
            self.linear2.pack(pack_format, output_scale=scale)
            return
        for gate in self.gating if isinstance(self.gating, nn.ModuleList) else [self.gating]:
            assert isinstance(gate, GatedFeedForward)
            gate.pack(pack_format, norm, scale)

    def products(self, weight_set: int = 0) -> LayerProducts:
        """Returns the four products of a packed layer: in and out of attention, up and down."""
        into, out = (
            cast(Linear, one[weight_set]) for one in (self.self_attn.in_projs, self.self_attn.out_projs)
        )
        if self.gating is None:
            return into.product, out.product, self.linear1.product, self.linear2.product
        gate = self.gating[weight_set] if isinstance(self.gating, nn.ModuleList) else self.gating
        assert isinstance(gate, GatedFeedForward)
        return into.product, out.product, gate.linear_in.product, gate.linear_out.product


def _make_gating(config: TransformerConfig) -> nn.ModuleList | GatedFeedForward | None:
    widths = config.dim_feedforward
    if config.gating == "none":
        return None
    if not config.weights_per_step:
        assert isinstance(widths, int)
        return GatedFeedForward(config.dim, widths, config.gating)
    each: Sequence[int] = [widths] * config.num_weight_sets if isinstance(widths, int) else widths
    return nn.ModuleList(GatedFeedForward(config.dim, width, config.gating) for width in each)


def _make_scale(config: TransformerConfig) -> LayerScale | nn.Identity:
    return nn.Identity() if config.layer_scale is None else LayerScale(config.dim, config.layer_scale)


def _release(scale: LayerScale | nn.Identity) -> Tensor | None:
    return scale.release_scale() if isinstance(scale, LayerScale) else None


class Transformer(nn.Module):
    """Runs a stack of layers over a whole sequence, the next chunk, or one step that all rows share."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.checkpointing = False  # recompute layers in the backward pass rather than keep them
        self.native: NativeTransformer | None = None  # once packed

    def init_state(
        self, rows: int, device: torch.device, dtype: torch.dtype, kv_int8: bool = False
    ) -> TransformerState:
        """Makes the state of `rows` streams. Raises ConfigError where the context is unlimited."""
        if self.config.context is None:
            raise ConfigError("a transformer without a context cannot stream: its cache would have no end")
        kv = self.new_cache(rows, self.config.context, device, torch.int8 if kv_int8 else dtype)
        scales = torch.zeros(kv.shape[:-1], device=device, dtype=SCALE_DTYPE) if kv_int8 else None
        return TransformerState(torch.zeros(rows, device=device, dtype=torch.long), kv, scales)

    def new_cache(self, rows: int, capacity: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Makes zeros, [rows, layers, 2, H_kv, capacity, D]."""
        config = self.config
        shape = (rows, config.num_layers, 2, config.num_kv_heads, capacity, config.head_dim)
        return torch.zeros(shape, device=device, dtype=dtype)

    def forward(
        self,
        x: Tensor,
        state: TransformerState | None = None,
        exec_mask: Tensor | None = None,
        cross: CrossSource | None = None,
        length: int | None = None,
    ) -> Tensor:
        """Computes [B, T, C] -> [B, T, C]: the whole sequence, or with a state each row's next T steps.

        `length` is how many positions of the cache are read, at least as many as any row will then
        have; by default what is filled is read on a CPU, and all of it elsewhere.
        """
        if state is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
            return self._run(self._with_positions(x, positions), plan_whole(self.config, x), None, cross)
        if self.native is not None and self.native.serves(state.kv) and cross is None and length is None:
            return self.native.steps(x, state.offset, state.kv, exec_mask)
        steps = x.shape[1]
        if length is None and state.offset.is_cuda:
            length = state.capacity  # looking at the offsets would wait for the device
        # The kernel has no derivative.
        single = steps == 1 and not torch.is_grad_enabled()
        if length is not None and single and cache_attention.serves(self.config, x.device):
            plan = plan_single(self.config, state.offset, state.capacity, length, exec_mask)
        else:
            plan = plan_ring(self.config, x, state.offset, state.capacity, length)
        positions = state.offset[:, None] + torch.arange(steps, device=x.device)
        x = self._run(self._with_positions(x, positions), plan, state.layers(), cross)
        keep(state.offset, state.offset + steps, exec_mask)
        return x

    def lockstep_cache(
        self, rows: int, steps: int, device: torch.device, dtype: torch.dtype
    ) -> list[LayerCache]:
        """Makes what `lockstep` keeps between its steps."""
        return _layers(self.new_cache(rows, steps, device, dtype), None)

    def lockstep(self, x: Tensor, caches: list[LayerCache], step: int) -> Tensor:
        """Computes one step, the same for all rows. x: [B, 1, C], caches: of `lockstep_cache`."""
        if self.config.positional_embedding == "none":
            return self._run(x, Plan(None, None, first_step=step, length=step + 1), caches, None)
        positions = torch.full((1, 1), step, device=x.device)
        plan = plan_lockstep(self.config, positions, step)
        return self._run(self._with_positions(x, positions), plan, caches, None)

    def _with_positions(self, x: Tensor, positions: Tensor) -> Tensor:
        if self.config.positional_embedding not in ("sin", "sin_rope"):
            return x
        embedding = sine_embedding(positions, x.shape[-1], self.config.max_period, x.dtype)
        return x + self.config.positional_scale * embedding

    def _run(
        self, x: Tensor, plan: Plan, caches: list[LayerCache] | None, cross: CrossSource | None
    ) -> Tensor:
        for i, layer in enumerate(self.layers):
            cache = None if caches is None else caches[i]
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, plan, cache, cross, use_reentrant=False)  # pyright: ignore[reportAssignmentType]
            else:
                x = layer(x, plan, cache, cross)
        return x

    def pack(self, pack_format: PackFormat) -> None:
        """Packs the weights for the CPU, layer by layer, and releases the plain ones on the way."""
        for layer in self.layers:
            assert isinstance(layer, TransformerLayer)
            layer.pack(pack_format)
        if not self.config.weights_per_step:
            self.native = self.native_layers(self.config.context)

    def native_layers(self, capacity: int | None) -> NativeTransformer | None:
        """Makes the layers in C, once packed, of all weight sets; None where they have to stay as they are.

        `capacity` is how many positions a cache has.
        """
        layers = [cast(TransformerLayer, one) for one in self.layers]
        sets = range(self.config.num_weight_sets)
        return native_transformer(
            self.config, [one.products(index) for index in sets for one in layers], capacity
        )


class ProjectedTransformer(nn.Module):
    """Puts a transformer between projections, where its width differs from what surrounds it."""

    def __init__(self, config: TransformerConfig, dimension: int) -> None:
        super().__init__()
        self.transformer = Transformer(config)
        same = config.dim == dimension
        self.input_proj = None if same else Linear(dimension, config.dim)
        self.output_projs = nn.ModuleList([nn.Identity() if same else Linear(config.dim, dimension)])

    def init_state(self, rows: int, device: torch.device, dtype: torch.dtype) -> TransformerState:
        return self.transformer.init_state(rows, device, dtype)

    def forward(
        self, x: Tensor, state: TransformerState | None = None, exec_mask: Tensor | None = None
    ) -> Tensor:
        """Computes [B, T, dimension] -> [B, T, dimension]."""
        if self.input_proj is not None:
            x = self.input_proj(x)
        return self.output_projs[0](self.transformer(x, state, exec_mask))

    def pack(self, pack_format: PackFormat) -> None:
        """Packs the weights for the CPU."""
        self.transformer.pack(pack_format)
        for projection in (self.input_proj, self.output_projs[0]):
            if isinstance(projection, Linear):
                projection.pack(pack_format)
