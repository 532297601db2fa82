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
        self._product: Product | None = None

    @property
    def centroids(self) -> Tensor:  # [bins, dim]
        if self._centroids is None:
            self._centroids = self.embedding_sum / self.cluster_usage.clamp(min=_LEAST_USAGE)[:, None]
        return self._centroids

    def refresh(self) -> None:
        """Recomputes the centroids; call it after the buffers have changed."""
        self._centroids = self._half_norms = self._product = None
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
        product = self._product or self.copied_product(x, self.centroids)
        similarity = F.linear(x, self.centroids) if product is None else product(x)
        return (self._half_norms - similarity).argmin(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Looks up centroids. [*] -> [*, dim]."""
        return F.embedding(codes, self.centroids)

    def pack(self) -> None:
        # Always in full precision: one wrong code spoils all the codebooks after it.
        self._product = pack_product(self.centroids, None, "float32")


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
        codes = self.rvq_first.encode(x)
        if self.rvq_rest.n_q:
            codes += self.rvq_rest.encode(x)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Decodes codes [B, K, T] -> [B, T, C]."""
        semantic = self.config.n_q_semantic
        y = self.rvq_first.decode(codes[:, :semantic])
        if codes.shape[1] > semantic:
            y = y + self.rvq_rest.decode(codes[:, semantic:])
        return y

    def pack(self, pack_format: PackFormat) -> None:
        self.rvq_first.pack(pack_format)
        self.rvq_rest.pack(pack_format)
