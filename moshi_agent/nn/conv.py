"""Causal convolutions over channels-last signals.

Both kinds keep their last inputs as state. With weights packed, both are one matrix product over
windows of the input: a transposed convolution of stride S is a plain one with S times the outputs,
since each output step depends on a whole number of input steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.nn.native.convolutions import ConvolutionStruct, NativeConvolutions, NativeUpsampling
from moshi_agent.nn.native.library import load_library
from moshi_agent.nn.native.products import NativeProduct
from moshi_agent.nn.packing import PackFormat, Product, pack_product
from moshi_agent.nn.packing_on_use import PacksOnUse
from moshi_agent.nn.state import State, keep


@dataclass
class ConvState(State):
    previous: Tensor  # [B, P, C] the last inputs
    started: Tensor  # [B] bool, False until the first input; kept up where the padding repeats it


class _CausalConv(PacksOnUse):
    """What both kinds share: `pad_steps` past inputs stand before each new chunk."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, in_channels: int, out_channels: int, pad_steps: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.pad_steps = pad_steps
        self.pad_mode: Literal["constant", "replicate"] = "constant"
        self.product: Product | None = None
        self._native: NativeConvolutions | None = None  # once packed

    def init_state(self, rows: int, device: torch.device, dtype: torch.dtype) -> ConvState:
        previous = torch.zeros(rows, self.pad_steps, self.in_channels, device=device, dtype=dtype)
        return ConvState(previous, torch.zeros(rows, device=device, dtype=torch.bool))

    def _with_past(self, x: Tensor, state: ConvState | None, exec_mask: Tensor | None) -> Tensor:
        """[B, T, C] -> [B, P + T, C], and moves the state on."""
        if not self.pad_steps:
            return x.contiguous()
        past = x.new_zeros(x.shape[0], self.pad_steps, x.shape[2]) if state is None else state.previous
        if self.pad_mode == "replicate":
            first = x[:, :1].expand_as(past)
            past = first if state is None else torch.where(state.started.view(-1, 1, 1), past, first)
        padded = torch.cat([past, x], dim=1)
        if state is not None:
            keep(state.previous, padded.narrow(1, x.shape[1], self.pad_steps), exec_mask)
            if self.pad_mode == "replicate":
                keep(state.started, torch.ones_like(state.started), exec_mask)
        return padded

    def pack(self, pack_format: PackFormat) -> None:
        """Packs the weights for the CPU, and releases the plain ones."""
        self.product = pack_product(*self.as_product(), pack_format)
        self.drop_packed_copy()
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        if isinstance(self.product, NativeProduct) and self.pad_steps:
            self._native = NativeConvolutions(self.product.library, [self.product], [self.native_struct()])

    def native_struct(self, elu: bool = False, residual: int = 0) -> ConvolutionStruct:
        """Describes the packed layer to the C, with an ELU before it; `residual` as in convolutions.h."""
        size, stride, dilation = self.windows
        assert isinstance(self.product, NativeProduct)
        return ConvolutionStruct(
            product=self.product.struct,
            channels=self.in_channels,
            out_channels=self.out_channels,
            pad=self.pad_steps,
            size=size,
            stride=stride,
            dilation=dilation,
            elu=elu,
            residual=residual,
            replicate=self.pad_mode == "replicate",
        )

    @property
    def windows(self) -> tuple[int, int, int]:
        """Returns size, stride and dilation of the windows that the product reads."""
        raise NotImplementedError


def _windows(x: Tensor, size: int, stride: int, dilation: int) -> Tensor:
    """[B, T, C] contiguous -> [B, N, size * C]: what each output step sees, without a copy if undilated."""
    batch, steps, channels = x.shape
    count = (steps - (size - 1) * dilation - 1) // stride + 1
    row = x.stride(0)
    if dilation == 1:
        return x.as_strided((batch, count, size * channels), (row, stride * channels, 1))
    shape, strides = (batch, count, size, channels), (row, stride * channels, dilation * channels, 1)
    return x.as_strided(shape, strides).reshape(batch, count, size * channels)


def _initial_std(inputs: float) -> float:
    """Keeps the variance through a layer behind an ELU; with torch's default a SEANet starts out mute."""
    return math.sqrt(1.5 / inputs)


class CausalConv1d(_CausalConv):
    """Convolves the present and the past only. weight: [out, in, kernel]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
        pad_mode: Literal["constant", "replicate"] = "constant",
    ) -> None:
        super().__init__(in_channels, out_channels, (kernel_size - 1) * dilation + 1 - stride)
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        self.pad_mode = pad_mode
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)
        nn.init.normal_(self.weight, std=_initial_std(in_channels * kernel_size))

    def forward(self, x: Tensor, state: ConvState | None = None, exec_mask: Tensor | None = None) -> Tensor:
        """Computes [B, T, in] -> [B, T / stride, out]; T is a multiple of the stride."""
        if self._native is not None and state is not None:
            return self._native.steps(x, [state], exec_mask)
        padded = self._with_past(x, state, exec_mask)
        product = self.product or self.copied_product(x, self.weight, self.bias)
        if product is not None:
            return product(_windows(padded, *self.windows))
        y = F.conv1d(padded.transpose(1, 2), self.weight, self.bias, self.stride, dilation=self.dilation)
        return y.transpose(1, 2)

    @property
    def windows(self) -> tuple[int, int, int]:
        return self.kernel_size, self.stride, self.dilation

    def as_product(self) -> tuple[Tensor, Tensor | None]:
        return self.weight.detach().transpose(1, 2).reshape(self.out_channels, -1), self.bias


class CausalConvTranspose1d(_CausalConv):
    """Upsamples by `stride`; the output is trimmed on the right, which makes it causal.

    weight: [in, out, kernel]; with `depthwise`, [channels, 1, kernel] and one filter per channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        bias: bool = True,
        depthwise: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, math.ceil(kernel_size / stride) - 1)
        self.kernel_size = kernel_size
        self.stride = stride
        self.depthwise = depthwise
        self._native_filter: NativeUpsampling | None = None  # once packed
        outs = 1 if depthwise else out_channels
        self.weight = nn.Parameter(torch.empty(in_channels, outs, kernel_size))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)
        inputs = (1 if depthwise else in_channels) * kernel_size / stride  # that an output sample sums over
        nn.init.normal_(self.weight, std=_initial_std(inputs))

    def forward(self, x: Tensor, state: ConvState | None = None, exec_mask: Tensor | None = None) -> Tensor:
        """Computes [B, T, in] -> [B, T * stride, out]."""
        if self._native is not None and state is not None:
            return self._native.steps(x, [state], exec_mask)
        if self._native_filter is not None and state is not None:
            return self._native_filter.steps(x, state, exec_mask)
        padded = self._with_past(x, state, exec_mask)
        if self.depthwise:
            return self._filter_each_channel(padded)
        batch, steps, _ = x.shape
        product = self.product or self.copied_product(x, self.weight, self.bias)
        if product is not None:
            y = product(_windows(padded, *self.windows))
            return y.view(batch, steps * self.stride, self.out_channels)
        y = F.conv_transpose1d(padded.transpose(1, 2), self.weight, self.bias, self.stride)
        first = self.pad_steps * self.stride
        return y[..., first : first + steps * self.stride].transpose(1, 2)

    def _taps(self) -> Tensor:
        """[P + 1, stride, in, out]: what an input step, oldest first, adds to each of the output steps."""
        missing = (self.pad_steps + 1) * self.stride - self.kernel_size
        weight = F.pad(self.weight, (0, missing)).unflatten(2, (self.pad_steps + 1, self.stride))
        return weight.permute(2, 3, 0, 1).flip(0)

    def _filter_each_channel(self, padded: Tensor) -> Tensor:
        taps = self._taps().squeeze(3)  # [P + 1, stride, C]
        steps = padded.shape[1] - self.pad_steps
        y = padded[:, :steps, None] * taps[0]
        for age in range(1, self.pad_steps + 1):
            y = y + padded[:, age : age + steps, None] * taps[age]
        y = y.flatten(1, 2)
        return y if self.bias is None else y + self.bias

    def pack(self, pack_format: PackFormat) -> None:
        """Packs the weights for the CPU, and releases the plain ones."""
        if not self.depthwise:
            super().pack(pack_format)
        elif not self.weight.is_cuda and (library := load_library("float32")) is not None:
            self._native_filter = NativeUpsampling(library, self._taps().squeeze(3), self.bias)

    @property
    def windows(self) -> tuple[int, int, int]:
        return self.pad_steps + 1, 1, 1

    def as_product(self) -> tuple[Tensor, Tensor | None]:
        matrix = self._taps().permute(1, 3, 0, 2).reshape(self.stride * self.out_channels, -1)
        return matrix, None if self.bias is None else self.bias.repeat(self.stride)
