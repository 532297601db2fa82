"""The convolutional encoder and decoder of Mimi (SEANet, Tagliasacchi et al. 2020, arXiv:2009.02095)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.config import SEANetConfig
from moshi_agent.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvState
from moshi_agent.nn.native.convolutions import NativeConvolutions
from moshi_agent.nn.native.products import NativeProduct
from moshi_agent.nn.packing import PackFormat
from moshi_agent.nn.state import State


@dataclass
class StackState(State):
    layers: list[State | None]


class Elu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or torch.is_grad_enabled():
            return F.elu(x)
        # The same, since exp(x) - 1 is never below x; on a CPU twice as fast as the exact `expm1`.
        return torch.maximum(x, x.clamp(max=0).exp_().sub_(1))


class Stack(nn.Module):
    """Applies layers one after the other. `model` keeps the numbering of the published checkpoints."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.model = nn.ModuleList(layers)
        self._native: NativeConvolutions | None = None  # once packed

    def init_state(self, rows: int, device: torch.device, dtype: torch.dtype) -> StackState:
        return StackState([_init_layer_state(layer, rows, device, dtype) for layer in self.model])

    def forward(self, x: Tensor, state: StackState | None = None, exec_mask: Tensor | None = None) -> Tensor:
        """Computes [B, T, C] -> [B, T', C']."""
        if self._native is not None and state is not None:
            return self._native.steps(x, _conv_states(self.model, state), exec_mask)
        return _run(self.model, x, state, exec_mask)

    def pack(self, pack_format: PackFormat) -> None:
        """Packs the weights for the CPU."""
        layers = list(_convolutions(self.model))
        for conv, _, _ in layers:
            conv.pack(pack_format)
        products = [conv.product for conv, _, _ in layers if isinstance(conv.product, NativeProduct)]
        if len(products) == len(layers):
            structs = [conv.native_struct(elu, residual) for conv, elu, residual in layers]
            self._native = NativeConvolutions(products[0].library, products, structs)


def _convolutions(
    layers: nn.ModuleList, in_block: bool = False
) -> Iterator[tuple[CausalConv1d | CausalConvTranspose1d, bool, int]]:
    """Each convolution, whether an ELU stands before it, and 1 or 2 for the first and second of a block."""
    elu, seen = False, 0
    for layer in layers:
        if isinstance(layer, ResidualBlock):
            yield from _convolutions(layer.block, in_block=True)
        elif isinstance(layer, CausalConv1d | CausalConvTranspose1d):
            seen += 1
            yield layer, elu, seen if in_block else 0
        elu = isinstance(layer, Elu)


def _conv_states(layers: nn.ModuleList, state: StackState) -> list[ConvState | None]:
    """The states of `_convolutions`."""
    states: list[ConvState | None] = []
    for layer, layer_state in zip(layers, state.layers, strict=True):
        if isinstance(layer, ResidualBlock):
            assert isinstance(layer_state, StackState)
            states += _conv_states(layer.block, layer_state)
        elif not isinstance(layer, Elu):
            states.append(cast(ConvState | None, layer_state))
    return states


def _init_layer_state(layer: nn.Module, rows: int, device: torch.device, dtype: torch.dtype) -> State | None:
    if isinstance(layer, CausalConv1d | CausalConvTranspose1d):
        return layer.init_state(rows, device, dtype) if layer.pad_steps else None
    return layer.init_state(rows, device, dtype) if isinstance(layer, ResidualBlock) else None


def _run(layers: nn.ModuleList, x: Tensor, state: StackState | None, exec_mask: Tensor | None) -> Tensor:
    states = state.layers if state is not None else [None] * len(layers)
    for layer, layer_state in zip(layers, states, strict=True):
        x = layer(x) if isinstance(layer, Elu) else layer(x, layer_state, exec_mask)
    return x


class ResidualBlock(nn.Module):
    """Computes x + conv(elu(conv(elu(x)))), the inner channels compressed."""

    def __init__(self, channels: int, config: SEANetConfig, dilation: int) -> None:
        super().__init__()
        hidden = channels // config.compress
        self.block = nn.ModuleList(
            [
                Elu(),
                CausalConv1d(channels, hidden, config.residual_kernel_size, dilation=dilation),
                Elu(),
                CausalConv1d(hidden, channels, 1),
            ]
        )

    def init_state(self, rows: int, device: torch.device, dtype: torch.dtype) -> StackState:
        return StackState([_init_layer_state(layer, rows, device, dtype) for layer in self.block])

    def forward(self, x: Tensor, state: StackState | None = None, exec_mask: Tensor | None = None) -> Tensor:
        return x + _run(self.block, x, state, exec_mask)


def _residual_blocks(channels: int, config: SEANetConfig) -> list[nn.Module]:
    return [ResidualBlock(channels, config, config.dilation_base**i) for i in range(config.n_residual_layers)]


def seanet_encoder(config: SEANetConfig) -> Stack:
    """Makes the encoder, [B, T, channels] -> [B, T / hop_length, dimension]."""
    width = config.n_filters
    layers: list[nn.Module] = [CausalConv1d(config.channels, width, config.kernel_size)]
    for ratio in reversed(config.ratios):
        layers += _residual_blocks(width, config)
        layers += [Elu(), CausalConv1d(width, 2 * width, 2 * ratio, stride=ratio)]
        width *= 2
    layers += [Elu(), CausalConv1d(width, config.dimension, config.last_kernel_size)]
    return Stack(layers)


def seanet_decoder(config: SEANetConfig) -> Stack:
    """Makes the decoder, [B, T, dimension] -> [B, T * hop_length, channels]."""
    width = config.n_filters * 2 ** len(config.ratios)
    layers: list[nn.Module] = [CausalConv1d(config.dimension, width, config.kernel_size)]
    for ratio in config.ratios:
        layers += [Elu(), CausalConvTranspose1d(width, width // 2, 2 * ratio, stride=ratio)]
        width //= 2
        layers += _residual_blocks(width, config)
    last = CausalConv1d(width, config.channels, config.last_kernel_size)
    with torch.no_grad():
        last.weight.mul_(0.1)  # training begins near the level of speech
    return Stack([*layers, Elu(), last])
