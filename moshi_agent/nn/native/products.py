"""Matrix products in C, each row of which has the same bits whatever other rows there are."""

from __future__ import annotations

import ctypes
import logging
from ctypes import Structure, c_int, c_void_p
from functools import cache, partial

import torch
from torch import Tensor

from moshi_agent.nn.native.library import Library, load_library

_log = logging.getLogger("moshi_agent.nn")
KINDS = ("float32", "bfloat16", "int8")  # as the C numbers them


class ProductStruct(Structure):
    """Is `Product` in products.h."""

    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("scale", c_void_p),
        ("inputs", c_int),
        ("outputs", c_int),
        ("kind", c_int),
        ("unused", c_int),
    ]


class NativeProduct:
    """Computes `x @ weight.T + bias` in float32, on weights of `kind`."""

    def __init__(self, library: Library, weight: Tensor, bias: Tensor | None, kind: str) -> None:
        """Packs weight, [out, in] float32, and bias, [out]."""
        self.library, self.kind = library, kind
        self.out_features, self.in_features = weight.shape
        scale = None
        if kind == "int8":
            scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
            weight = (weight / scale[:, None]).round_().clamp_(-127, 127)
        panels = _panels(weight, library.panel_floats(), library.lane_floats())
        self._weight = panels.to(getattr(torch, kind))
        # The struct has addresses: what lies there has to stay.
        self._bias = None if bias is None else bias.detach().float().contiguous().clone()
        self._scale = scale
        self.struct = ProductStruct(
            self._weight.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(),
            None if scale is None else scale.data_ptr(),
            self.in_features,
            self.out_features,
            KINDS.index(kind),
        )
        self._address = ctypes.addressof(self.struct)

    def __call__(self, x: Tensor) -> Tensor:  # [*, in] -> [*, out]
        x = x.float().contiguous()
        y = x.new_empty(*x.shape[:-1], self.out_features)
        self.library.product_rows(self._address, x.data_ptr(), x.numel() // self.in_features, y.data_ptr())
        return y


def native_product(weight: Tensor, bias: Tensor | None, kind: str) -> NativeProduct | None:
    """Makes a product in C; None where it cannot, or where PyTorch's are as fast."""
    pytorch_is_slow = kind == "bfloat16" and not onednn_multiplies_bfloat16()
    if not weight.numel() or (weight.numel() > _LARGEST and not pytorch_is_slow):
        return None
    library = load_library(kind)
    if library is None or not _agrees(library, kind):
        return None
    return NativeProduct(library, weight, bias, kind)


def onednn_multiplies_bfloat16() -> bool:
    """Whether oneDNN has products of bfloat16 for this processor: without AVX-512 it has none."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@cache
def _agrees(library: Library, kind: str) -> bool:
    """Whether the products are right, and those of a row the same whatever rows are beside it."""
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator, dtype=torch.float32)
    for outputs, inputs in ((1, 7), (40, 33), (100, 64)):
        weight, bias, x = normal(outputs, inputs), normal(outputs), normal(29, inputs)
        product = NativeProduct(library, weight, bias, kind)
        y, wanted = product(x), x @ weight.t() + bias
        alone = torch.cat([product(row[None]) for row in x])
        if float((y - wanted).abs().max() / wanted.abs().max()) > _ROUNDING[kind] or not torch.equal(
            y, alone
        ):
            _log.warning("products in C disagree with PyTorch's here, so the step is made of the latter")
            return False
    return True


_ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 2e-2}  # as a share of the largest number


_LARGEST = 2**21  # elements, beyond which a product is as fast as memory or cores are, whoever computes it


def _panels(weight: Tensor, panel: int, lane: int) -> Tensor:
    """[out, in] -> [*]: panels of outputs as products.h has them."""
    parts: list[Tensor] = []
    for outputs in weight.split(panel):
        vectors = -(-len(outputs) // lane)
        width = lane * (vectors if vectors <= 2 else 4)
        filled = outputs.new_zeros(width, weight.shape[1])
        filled[: len(outputs)] = outputs
        parts.append(filled.t().flatten())
    # A vector more, since the last one is read whole.
    return torch.cat([*parts, weight.new_zeros(lane)])
