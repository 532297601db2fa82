"""Stacks of causal convolutions in C, on the next steps of each row."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_int, c_void_p
from typing import Protocol

from torch import Tensor

from moshi_agent.nn.native.library import Library, Workspace
from moshi_agent.nn.native.products import NativeProduct, ProductStruct


class ConvolutionStruct(Structure):
    """Is `Convolution` in convolutions.h."""

    _fields_ = [
        ("product", ProductStruct),
        *((name, c_int) for name in ("channels", "out_channels", "pad", "size", "stride", "dilation", "elu")),
        *((name, c_int) for name in ("residual", "replicate", "unused")),
    ]


class _StateStruct(Structure):
    _fields_ = [("previous", c_void_p), ("started", c_void_p)]


class ConvolutionState(Protocol):
    """Is what a convolution keeps of its input."""

    previous: Tensor  # [B, P, C]
    started: Tensor  # [B] bool


class NativeConvolutions:
    """Runs packed convolutions one after the other."""

    def __init__(
        self, library: Library, products: Sequence[NativeProduct], convs: Sequence[ConvolutionStruct]
    ) -> None:
        self._library, self._products = library, products
        self._convs = (ConvolutionStruct * len(convs))(*convs)
        self._address = ctypes.addressof(self._convs)
        self._states = _StateStruct * len(convs)
        self._out_channels = convs[-1].out_channels
        self._workspace = Workspace()

    def steps(self, x: Tensor, states: Sequence[ConvolutionState | None], exec_mask: Tensor | None) -> Tensor:
        """Computes [B, T, C] -> [B, T', C'], and changes the states of the rows that execute."""
        x = x.float().contiguous()
        batch, steps, _ = x.shape
        count = len(self._convs)
        after = steps
        for conv in self._convs:
            windows = (conv.pad + after - (conv.size - 1) * conv.dilation - 1) // conv.stride + 1
            after = windows * (conv.product.outputs // conv.out_channels)
        y = x.new_empty(batch, after, self._out_channels)
        given = self._states(
            *(
                _StateStruct()
                if one is None
                else _StateStruct(one.previous.data_ptr(), one.started.data_ptr())
                for one in states
            )
        )
        work = self._workspace.floats(self._library.convolutions_work(self._address, count, batch, steps))
        self._library.convolution_steps(
            self._address,
            count,
            x.data_ptr(),
            batch,
            steps,
            ctypes.addressof(given),
            None if exec_mask is None else exec_mask.data_ptr(),
            y.data_ptr(),
            work,
        )
        return y


class NativeUpsampling:
    """Filters each channel, and gives `stride` steps for each."""

    def __init__(self, library: Library, taps: Tensor, bias: Tensor | None) -> None:
        """Takes taps [P + 1, stride, C] and bias [C]."""
        self._library, self._workspace = library, Workspace()
        self._taps = taps.detach().float().contiguous().clone()
        self._bias = None if bias is None else bias.detach().float().contiguous().clone()

    def steps(self, x: Tensor, state: ConvolutionState, exec_mask: Tensor | None) -> Tensor:
        """Computes [B, T, C] -> [B, T * stride, C], and changes the state of the rows that execute."""
        x = x.float().contiguous()
        batch, steps, channels = x.shape
        taps, stride = self._taps.shape[:2]
        y = x.new_empty(batch, steps * stride, channels)
        self._library.upsample_steps(
            self._taps.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(),
            taps - 1,
            stride,
            channels,
            x.data_ptr(),
            batch,
            steps,
            state.previous.data_ptr(),
            None if exec_mask is None else exec_mask.data_ptr(),
            y.data_ptr(),
            self._workspace.floats((taps - 1 + steps) * channels),
        )
        return y
