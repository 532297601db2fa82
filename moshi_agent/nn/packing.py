"""Matrix products on weights packed for the CPU.

Packing reorders a weight once into the blocked layout that oneDNN's kernels read, or quantises it
to int8. A packed float32 product gives each row the same bits however many rows there are, which
`F.linear` does not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, TypeGuard, cast

import torch
from torch import Tensor
from torch.nn import functional as F

PackFormat = Literal["float32", "bfloat16", "int8"]
PACK_FORMATS: tuple[PackFormat, ...] = ("float32", "bfloat16", "int8")

Product = Callable[[Tensor], Tensor]  # [*, in] float32 -> [*, out] float32


def pack_product(weight: Tensor, bias: Tensor | None, pack_format: PackFormat) -> Product:
    """The product `x @ weight.T + bias` on packed weights. weight: [out, in], bias: [out]."""
    weight = weight.detach().float()
    bias = None if bias is None else bias.detach().float()
    if pack_format == "int8" and torch.backends.quantized.engine != "none":
        return _Int8Product(weight, bias)
    if not torch.backends.mkldnn.is_available():
        return lambda x: F.linear(x, weight, bias)
    return _OneDnnProduct(weight, bias, torch.bfloat16 if pack_format == "bfloat16" else torch.float32)


def is_float32_product(product: object) -> TypeGuard[_OneDnnProduct]:
    """Whether this is a packed product in full precision; it then tells its `in_features`."""
    return isinstance(product, _OneDnnProduct) and product.dtype == torch.float32


class _OneDnnProduct:
    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.in_features = weight.shape[1]
        self.bias = None if bias is None else bias.to(dtype)
        self.weight = _reorder(weight.to(dtype).contiguous())
        self.linear = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:  # [*, in] -> [*, out]
        if self.dtype != torch.float32:
            return self._product(x.to(self.dtype)).float()
        if x.numel() == x.shape[-1]:
            # With a single row oneDNN picks another kernel, whose sums are ordered differently.
            return self._product(torch.cat([x, x]))[: len(x)]
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear(x, self.weight, self.bias, "none", [], ""))


def _reorder(weight: Tensor) -> Tensor:
    try:
        return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight, 8))
    except NotImplementedError:  # before torch 2.10 the operator takes the opaque layout
        return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.to_mkldnn(), 8))


class _Int8Product:
    """Weights as int8 with one scale per output; the input is quantised on the fly, per call."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        # Of both ends rather than of the absolute values, which would be one more copy of the weight.
        largest = torch.maximum(weight.amax(dim=1), -weight.amin(dim=1))
        scales = largest.clamp(min=1e-12) / 127
        zeros = torch.zeros(weight.shape[0], dtype=torch.long)
        with warnings.catch_warnings():
            # Announced to go in some later release; the bound on torch in pyproject.toml is below it.
            warnings.filterwarnings("ignore", "torch.quantize_per_", UserWarning)
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias)

    def __call__(self, x: Tensor) -> Tensor:  # [*, in] -> [*, out]
        return cast(Tensor, torch.ops.quantized.linear_dynamic(x, self.packed, True))
