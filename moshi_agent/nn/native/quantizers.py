"""Residual quantizers in C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_int, c_void_p

from torch import Tensor

from moshi_agent.nn.native.library import Library, Workspace
from moshi_agent.nn.native.products import NativeProduct, ProductStruct


class _QuantizerStruct(Structure):
    _fields_ = [
        ("input", ProductStruct),
        ("output", ProductStruct),
        ("similarities", c_void_p),
        ("half_norms", c_void_p),
        ("centroids", c_void_p),
        *((name, c_int) for name in ("codebooks", "dim", "bins", "unused")),
    ]


class NativeQuantizer:
    """Finds the codes of one residual quantizer, and sums its centroids."""

    def __init__(
        self,
        library: Library,
        into: NativeProduct,
        out: NativeProduct,
        similarities: Sequence[NativeProduct],
        half_norms: Sequence[Tensor],
        centroids: Sequence[Tensor],
    ) -> None:
        """Takes of each codebook the product with its centroids, half of their squared norms, and them."""
        self._library, self._workspace = library, Workspace()
        self._kept = (into, out, similarities, half_norms, centroids)
        count = len(centroids)
        self._products = (ProductStruct * count)(*(one.struct for one in similarities))
        self._half_norms = (c_void_p * count)(*(one.data_ptr() for one in half_norms))
        self._centroids = (c_void_p * count)(*(one.data_ptr() for one in centroids))
        bins, dim = centroids[0].shape
        self._struct = _QuantizerStruct(
            into.struct,
            out.struct,
            ctypes.addressof(self._products),
            ctypes.addressof(self._half_norms),
            ctypes.addressof(self._centroids),
            count,
            dim,
            bins,
        )
        self._address = ctypes.addressof(self._struct)
        self.codebooks, self.out_features = count, out.out_features

    def encode(self, x: Tensor, codes: Tensor, first: int) -> None:
        """Writes the codes of x, [B, T, C] contiguous, to codes, [B, K, T], from codebook `first` on."""
        batch, steps, _ = x.shape
        work = self._workspace.floats(self._library.quantizer_work(self._address, batch * steps))
        self._library.quantize_steps(
            self._address, x.data_ptr(), batch, steps, first, codes.shape[1], codes.data_ptr(), work
        )

    def decode(self, codes: Tensor, first: int, used: int, y: Tensor, add: bool) -> None:
        """Writes the latents of `used` of the codes, [B, K, T], from `first` on, to y, [B, T, C]; or adds."""
        batch, count, steps = codes.shape
        work = self._workspace.floats(self._library.quantizer_work(self._address, batch * steps))
        self._library.restore_steps(
            self._address, codes.data_ptr(), batch, steps, first, used, count, y.data_ptr(), int(add), work
        )
