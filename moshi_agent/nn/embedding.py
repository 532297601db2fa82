"""Token embeddings of the language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.nn.linear import Linear
from moshi_agent.nn.norm import LayerNorm

ZERO_TOKEN = -1  # embedded as zeros: nothing is given to the model here
UNGENERATED_TOKEN = -2  # stands where a token is still to be generated


class TokenEmbedding(nn.Embedding):
    """Embeds tokens by a table.

    Args:
        low_rank: width of the table, followed by a projection to `dim`.
        norm: normalises what was looked up.
        demux: a token may stand for two, `(second + 1) * num_tokens + first`, projected separately.
        zero: a token whose row is zeros, and stays so in training.
    """

    def __init__(
        self,
        num_tokens: int,
        dim: int,
        *,
        low_rank: int | None = None,
        norm: bool = False,
        demux: bool = False,
        zero: int | None = None,
    ) -> None:
        width = low_rank or dim
        super().__init__(num_tokens, width, padding_idx=zero)
        self.norm = LayerNorm(width) if norm else None
        self.low_rank = Linear(width, dim) if low_rank else None
        self.demux = demux
        self.table: Tensor | None = None  # [num_tokens + 1, dim], once packed; the last row is zeros
        if demux:
            self.out1 = Linear(width, dim)
            self.out2 = Linear(width, dim)

    @property
    def is_plain(self) -> bool:
        """Tells whether the table alone makes the embedding."""
        return self.norm is None and self.low_rank is None and not self.demux

    def forward(self, input: Tensor) -> Tensor:
        """Embeds tokens [*] -> [*, dim]; the zero token gives zeros."""
        if self.table is not None:
            return F.embedding(input.remainder(len(self.table)), self.table)  # -1 is the last row
        given = (input != ZERO_TOKEN)[..., None]
        tokens = input.clamp(min=0)
        if self.demux:
            return self._demuxed(tokens) * given
        y = super().forward(tokens)
        if self.norm is not None:
            y = self.norm(y)
        y = y * given
        return y if self.low_rank is None else self.low_rank(y)

    def pack(self) -> None:
        """Reduces the embedding to one look-up, where the table alone makes it."""
        if not self.is_plain:
            return
        self.table = F.pad(self.weight.detach().float(), (0, 0, 0, 1))
        self.register_parameter("weight", None)

    def _demuxed(self, tokens: Tensor) -> Tensor:
        second = tokens // self.num_embeddings - 1
        y = self.out1(F.embedding(tokens % self.num_embeddings, self.weight))
        return y + self.out2(F.embedding(second.clamp(min=0), self.weight)) * (second >= 0)[..., None]


class PackedEmbeddingSum(nn.Module):
    """Sums several plain embeddings in one look-up: the tables stand one below the other."""

    table: Tensor  # [sum of tokens + 1, dim]; the last row is zeros
    first: Tensor  # [tables] the row where each table begins

    def __init__(self, embeddings: list[TokenEmbedding], dtype: torch.dtype = torch.float32) -> None:
        """Takes the tables over, in this type: the embeddings no longer have them."""
        super().__init__()
        sizes, like = [len(one.weight) for one in embeddings], embeddings[0].weight
        table = torch.zeros(sum(sizes) + 1, like.shape[1], device=like.device, dtype=dtype)
        for part, embedding in zip(table[:-1].split(sizes), embeddings, strict=True):
            part.copy_(embedding.weight.detach())  # which may be mapped from a file, in another type
            embedding.register_parameter("weight", None)
        self.register_buffer("table", table, persistent=False)
        first = torch.tensor([0, *sizes[:-1]], device=table.device).cumsum(0)
        self.register_buffer("first", first, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeds and sums [N, tables] -> [N, dim]."""
        rows = torch.where(tokens == ZERO_TOKEN, len(self.table) - 1, tokens.clamp(min=0) + self.first)
        return F.embedding_bag(rows, self.table, mode="sum")
