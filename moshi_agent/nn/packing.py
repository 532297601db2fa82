"""Matrix products on weights packed for inference, above all on the CPU.

Packing reorders a weight once into the blocked layout that oneDNN's kernels read, transposes it where it is
so small that oneDNN's preparations take longer than the product, or quantises it to int8. A packed float32
product gives each row the same bits however many rows there are, which `F.linear` does not.

On a GPU nothing is reordered. There too, packing takes norms and scales into the weights, and makes
convolutions matrix products: cuDNN would reorder their weights in every step, plan each of them for every
number of rows, and round to ten bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.nn.native.products import native_product, onednn_multiplies_bfloat16

PackFormat = Literal["float32", "bfloat16", "int8"]
PACK_FORMATS: tuple[PackFormat, ...] = ("float32", "bfloat16", "int8")

Product = Callable[[Tensor], Tensor]  # [*, in] float32 -> [*, out] float32


def pack_product(weight: Tensor, bias: Tensor | None, pack_format: PackFormat) -> Product:
    """Makes the product `x @ weight.T + bias` on packed weights. weight: [out, in], bias: [out]."""
    weight = weight.detach().float()
    bias = None if bias is None else bias.detach().float()
    if weight.is_cuda:
        return PlainProduct(weight, bias)
    native = native_product(weight, bias, pack_format)
    if native is not None:
        return native
    if pack_format == "int8" and torch.backends.quantized.engine != "none":
        return _Int8Product(weight, bias)
    if not torch.backends.mkldnn.is_available():
        return lambda x: F.linear(x, weight, bias)
    if pack_format == "bfloat16":
        product = _BFloat16Product if onednn_multiplies_bfloat16() else _RoundedProduct
        return product(weight, bias)
    small = weight.numel() <= _SMALL and len(weight) >= _FEW_OUTPUTS
    if small and _transposed_is_invariant(*weight.shape):
        return Float32Product(_TransposedProduct(weight, bias), *weight.shape)
    return Float32Product(_OneDnnProduct(weight, bias), *weight.shape)


_SMALL = 2**18  # elements of a weight that oneDNN takes longer to get ready for than to multiply with
_FEW_OUTPUTS = 16  # with fewer, as the outer convolutions have, oneDNN is the faster one


class Float32Product:
    """Multiplies in full precision; each row has the same bits whatever other rows there are."""

    def __init__(self, product: Product, out_features: int, in_features: int) -> None:
        self.out_features = out_features
        self.in_features = in_features
        self._product = product

    def __call__(self, x: Tensor) -> Tensor:  # [*, in] -> [*, out]
        if x.numel() == x.shape[-1]:
            # With a single row another kernel is picked, whose sums are ordered differently.
            return self._product(torch.cat([x, x]))[: len(x)]
        return self._product(x)


class PlainProduct:
    """Multiplies by PyTorch's own product, in full precision."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight.contiguous()
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:  # [*, in] -> [*, out]
        # Two dimensions: of three that do not lie in one piece, torch would multiply row by row.
        y = F.linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        return y.view(*x.shape[:-1], -1)


class _TransposedProduct:
    """On a weight that lies in memory as [in, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight.t().contiguous()
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = x if x.dim() == 2 else x.reshape(-1, len(self.weight))
        y = torch.mm(rows, self.weight) if self.bias is None else torch.addmm(self.bias, rows, self.weight)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], -1)


@cache
def _transposed_is_invariant(out_features: int, in_features: int) -> bool:
    """Whether the processor's library gives a row the same bits in products of any number of rows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS_TRIED[-1], in_features, dtype=torch.float32, generator=generator)
    weight = torch.randn(out_features, in_features, dtype=torch.float32, generator=generator)
    product = _TransposedProduct(weight, torch.randn(out_features, dtype=torch.float32, generator=generator))
    pairs = torch.cat([product(x[row : row + 2]) for row in range(0, len(x), 2)])
    return all(torch.equal(product(x[:rows]), pairs[:rows]) for rows in _ROWS_TRIED)


_ROWS_TRIED = (*range(2, 18), 31, 64, 100)


class _OneDnnProduct:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self.weight = _reorder(weight.contiguous())
        self.linear = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear(x, self.weight, self.bias, "none", [], ""))


class _BFloat16Product:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.product = _OneDnnProduct(weight.bfloat16(), None if bias is None else bias.bfloat16())

    def __call__(self, x: Tensor) -> Tensor:  # [*, in] -> [*, out]
        return self.product(x.bfloat16()).float()


class _RoundedProduct:
    """Multiplies by weights kept in bfloat16 as PyTorch does where oneDNN cannot."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight.bfloat16()
        self.bias = None if bias is None else bias.bfloat16()

    def __call__(self, x: Tensor) -> Tensor:  # [*, in] -> [*, out]
        return F.linear(x.bfloat16(), self.weight, self.bias).float()


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
