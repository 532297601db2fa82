"""The split residual vector quantizer of Mimi.

The first codebook (semantic) quantizes a projection of the latent; the others (acoustic) quantize
another projection, each what the ones before it left over. The two results are added.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.config import QuantizerConfig
from moshi_agent.errors import InputError
from moshi_agent.nn.linear import Linear
from moshi_agent.nn.native.products import NativeProduct
from moshi_agent.nn.native.quantizers import NativeQuantizer
from moshi_agent.nn.packing import PackFormat, Product, pack_product
from moshi_agent.nn.packing_on_use import PacksOnUse

_LEAST_USAGE = 1e-5


class Codebook(PacksOnUse):
    """Holds centroids as training keeps them: a running sum of members over a running count."""

    cluster_usage: Tensor  # [bins]
    embedding_sum: Tensor  # [bins, dim]
    initialized: Tensor  # [1], 1 once the centroids have been set

    def __init__(self, bins: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("initialized", torch.zeros(1))
        self.register_buffer("cluster_usage", torch.ones(bins))
        self.register_buffer("embedding_sum", torch.zeros(bins, dim))
        self._centroids: Tensor | None = None
        self._half_norms: Tensor | None = None
        self.product: Product | None = None

    @property
    def centroids(self) -> Tensor:  # [bins, dim]
        if self._centroids is None:
            self._centroids = self.embedding_sum / self.cluster_usage.clamp(min=_LEAST_USAGE)[:, None]
        return self._centroids

    def refresh(self) -> None:
        """Recomputes the centroids; call it after the buffers have changed."""
        self._centroids = self._half_norms = self.product = None
        self.drop_packed_copy()

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]  # pyright: ignore
        self.refresh()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.refresh()

    def as_product(self) -> tuple[Tensor, Tensor | None]:
        return self.centroids, None

    def encode(self, x: Tensor) -> Tensor:
        """Finds the nearest centroid. [*, dim] -> [*] int64."""
        if self._half_norms is None:
            self._half_norms = self.centroids.square().sum(1) / 2
        # |x - c|^2 / 2 without the part that is the same for every centroid.
        product = self.product or self.copied_product(x, self.centroids)
        similarity = F.linear(x, self.centroids) if product is None else product(x)
        return (self._half_norms - similarity).argmin(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Looks up centroids. [*] -> [*, dim]."""
        return F.embedding(codes, self.centroids)

    def pack(self) -> None:
        # Always in full precision: one wrong code spoils all the codebooks after it.
        self.product = pack_product(self.centroids, None, "float32")


class ResidualQuantizer(nn.Module):
    """Quantizes with each codebook what the ones before it left over."""

    def __init__(self, config: QuantizerConfig, n_q: int) -> None:
        super().__init__()
        self.n_q = n_q  # codebooks in use
        self.input_proj = Linear(config.input_dimension, config.dimension)
        self.output_proj = Linear(config.dimension, config.output_dimension)
        self.codebooks = nn.ModuleList(Codebook(config.bins, config.dimension) for _ in range(n_q))
        self._table: Tensor | None = None  # [n_q * bins, dim], once packed: the codebooks one below the other
        self._firsts: Tensor | None = None  # [n_q], the row where each begins
        self.native: NativeQuantizer | None = None  # once packed

    def codebook(self, index: int) -> Codebook:
        return cast(Codebook, self.codebooks[index])

    def encode(self, x: Tensor) -> list[Tensor]:
        """Encodes [B, T, C] -> one [B, T] for each codebook in use."""
        residual = self.input_proj(x)
        codes: list[Tensor] = []
        for index in range(self.n_q):
            codebook = self.codebook(index)
            codes.append(codebook.encode(residual))
            if index + 1 < self.n_q:
                residual = residual - codebook.decode(codes[-1])
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Decodes [B, K, T] -> [B, T, C]; K may be smaller than the number of codebooks."""
        return self.output_proj(self._sum(codes))

    def _sum(self, codes: Tensor) -> Tensor:
        """[B, K, T] -> the centroids' sum [B, T, dim]."""
        batch, count, steps = codes.shape
        if self._table is not None and self._firsts is not None and count <= len(self._firsts):
            rows = codes.transpose(1, 2).reshape(-1, count) + self._firsts[:count]
            return F.embedding_bag(rows, self._table, mode="sum").view(batch, steps, -1)
        parts = [self.codebook(index).decode(codes[:, index]) for index in range(count)]
        return torch.stack(parts).sum(0) if count > 1 else parts[0]

    def pack(self, pack_format: PackFormat) -> None:
        self.input_proj.pack("float32" if pack_format == "int8" else pack_format)
        self.output_proj.pack(pack_format)
        for index in range(self.n_q):
            self.codebook(index).pack()
        centroids = [self.codebook(index).centroids for index in range(self.n_q)]
        self._table = torch.cat(centroids)
        self._firsts = torch.arange(self.n_q, device=self._table.device) * len(centroids[0])
        self.native = self._as_native()

    def _as_native(self) -> NativeQuantizer | None:
        books = [self.codebook(index) for index in range(self.n_q)]
        into, out, similarities = (
            self.input_proj.product,
            self.output_proj.product,
            [one.product for one in books],
        )
        if not books or not isinstance(into, NativeProduct) or not isinstance(out, NativeProduct):
            return None
        native = [one for one in similarities if isinstance(one, NativeProduct)]
        if len(native) < len(books):
            return None
        centroids = [one.centroids.float().contiguous() for one in books]
        halves = [one.square().sum(1) / 2 for one in centroids]
        return NativeQuantizer(into.library, into, out, native, halves, centroids)


class SplitQuantizer(nn.Module):
    """Quantizes with semantic and acoustic codebooks side by side."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.rvq_first = ResidualQuantizer(config, config.n_q_semantic)
        self.rvq_rest = ResidualQuantizer(config, config.n_q - config.n_q_semantic)

    @property
    def num_codebooks(self) -> int:
        return self.rvq_first.n_q + self.rvq_rest.n_q

    def set_num_codebooks(self, count: int) -> None:
        """Sets how many are in use. Raises InputError unless n_q_semantic <= count <= n_q."""
        config = self.config
        if not config.n_q_semantic <= count <= config.n_q:
            raise InputError(f"{count} codebooks; accepted: {config.n_q_semantic} to {config.n_q}")
        self.rvq_rest.n_q = count - config.n_q_semantic

    def encode(self, x: Tensor) -> Tensor:
        """Encodes [B, T, C] -> codes [B, K, T]."""
        if self._native is not None and self.num_codebooks == sum(one.codebooks for one in self._native):
            return self._encode_native(x.float().contiguous(), self._native)
        codes = self.rvq_first.encode(x)
        if self.rvq_rest.n_q:
            codes += self.rvq_rest.encode(x)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Decodes codes [B, K, T] -> [B, T, C]."""
        semantic = self.config.n_q_semantic
        if self._native is not None and codes.shape[1] <= self.num_codebooks:
            return self._decode_native(codes.contiguous(), self._native)
        y = self.rvq_first.decode(codes[:, :semantic])
        if codes.shape[1] > semantic:
            y = y + self.rvq_rest.decode(codes[:, semantic:])
        return y

    def pack(self, pack_format: PackFormat) -> None:
        self.rvq_first.pack(pack_format)
        self.rvq_rest.pack(pack_format)

    @property
    def _native(self) -> tuple[NativeQuantizer, ...] | None:
        """Both, or the only one that is in use."""
        parts = (self.rvq_first.native, *([self.rvq_rest.native] if self.rvq_rest.n_q else []))
        return cast(tuple[NativeQuantizer, ...], parts) if all(parts) else None

    def _encode_native(self, x: Tensor, parts: tuple[NativeQuantizer, ...]) -> Tensor:
        codes = torch.empty(len(x), self.num_codebooks, x.shape[1], dtype=torch.long)
        first = 0
        for part in parts:
            part.encode(x, codes, first)
            first += part.codebooks
        return codes

    def _decode_native(self, codes: Tensor, parts: tuple[NativeQuantizer, ...]) -> Tensor:
        batch, count, steps = codes.shape
        y = torch.empty(batch, steps, parts[0].out_features, dtype=torch.float32)
        first = 0
        for part in parts:
            used = min(part.codebooks, count - first)
            if used > 0:
                part.decode(codes, first, used, y, add=first > 0)
            first += part.codebooks
        return y
