"""Transformer layers in C, on the next steps of each row."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import Structure, c_float, c_int, c_void_p
from typing import Any

import torch
from torch import Tensor

from moshi_agent.config import TransformerConfig
from moshi_agent.nn.native.library import Library, Workspace
from moshi_agent.nn.native.products import NativeProduct, ProductStruct

_ROTATIONS = {"none": 0, "rope": 1, "rope_concat": 2}
_FEED_FORWARDS = {"none": 0, "silu": 1}


class LayerStruct(Structure):
    """Is `Layer` in transformers.h."""

    _fields_ = [
        ("into", ProductStruct),
        ("out", ProductStruct),
        ("up", ProductStruct),
        ("down", ProductStruct),
    ]


class StackStruct(Structure):
    """Is `Stack` in transformers.h."""

    _fields_ = [
        *(
            (name, c_int)
            for name in ("dim", "heads", "kv_heads", "head_dim", "layers", "norm", "feed_forward")
        ),
        *((name, c_int) for name in ("rotation", "context", "capacity")),
        ("eps", c_float),
        ("unused", c_float),
        ("frequencies", c_void_p),
    ]


LayerProducts = tuple[Any, Any, Any, Any]  # in, out, up, down


def serves_config(config: TransformerConfig) -> bool:
    """Tells whether the C has what such a transformer consists of."""
    return (
        config.positional_embedding in _ROTATIONS
        and config.gating in _FEED_FORWARDS
        and not config.cross_attention
        and config.num_layers > 0
    )


class NativeTransformer:
    """Runs the layers of a packed transformer whose products are all native."""

    def __init__(
        self, library: Library, config: TransformerConfig, layers: Sequence[LayerProducts], capacity: int
    ) -> None:
        """Takes the products of each layer; of several weight sets one after the other."""
        self._library, self._products = library, layers
        self.layers = (LayerStruct * len(layers))(
            *(LayerStruct(*(one.struct for one in layer)) for layer in layers)
        )
        index = torch.arange(config.head_dim // 2, dtype=torch.float32)
        # As `positions._rotation` has them.
        self._frequencies = torch.exp(index * (-math.log(config.max_period) * 2 / config.head_dim))
        self.stack = StackStruct(
            dim=config.dim,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            layers=config.num_layers,
            norm=int(config.norm.startswith("layer_norm")),
            feed_forward=_FEED_FORWARDS[config.gating],
            rotation=_ROTATIONS[config.positional_embedding],
            context=config.context or 0,
            capacity=capacity,
            eps=1e-8 if config.norm.endswith("_f32") else 1e-5,
            frequencies=self._frequencies.data_ptr(),
        )
        self._stack_address, self._layers_address = (
            ctypes.addressof(self.stack),
            ctypes.addressof(self.layers),
        )
        self._workspace = Workspace()

    def serves(self, kv: Tensor) -> bool:
        """Tells whether the C takes such a cache, [B, layers, 2, H_kv, capacity, D]."""
        return kv.dtype == torch.float32 and kv.shape[4] == self.stack.capacity and kv.is_contiguous()

    def steps(self, x: Tensor, offset: Tensor, kv: Tensor, exec_mask: Tensor | None) -> Tensor:
        """Takes the next steps of each row, and moves the rows on that execute.

        Args:
            x: [B, T, C].
            offset: [B] int64, changed.
            kv: [B, layers, 2, H_kv, capacity, D] float32, changed.
            exec_mask: [B] bool, or None for all.

        Returns:
            [B, T, C].
        """
        y = x.float().clone(memory_format=torch.contiguous_format)
        batch, steps, _ = x.shape
        work = self._workspace.floats(
            self._library.transformer_work(self._stack_address, self._layers_address, batch * steps)
        )
        self._library.transformer_steps(
            self._stack_address,
            self._layers_address,
            y.data_ptr(),
            batch,
            steps,
            offset.data_ptr(),
            kv.data_ptr(),
            None if exec_mask is None else exec_mask.data_ptr(),
            work,
        )
        return y


def native_transformer(
    config: TransformerConfig, layers: Sequence[LayerProducts], capacity: int | None
) -> NativeTransformer | None:
    """Makes it of a packed transformer's products; None where it is none that the C knows."""
    if capacity is None or not serves_config(config):
        return None
    products = [one for layer in layers for one in layer]
    if not all(isinstance(one, NativeProduct) for one in products):
        return None
    return NativeTransformer(products[-1].library, config, layers, capacity)
