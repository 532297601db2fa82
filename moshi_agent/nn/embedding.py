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
    """A table of embeddings.

    Args:
        low_rank: width of the table, followed by a projection to `dim`.
        norm: normalises what was looked up.
        demux: a token may stand for two, `(second + 1) * num_tokens + first`, projected separately.
    """

    def __init__(
        self,
        num_tokens: int,
        dim: int,
        *,
        low_rank: int | None = None,
        norm: bool = False,
        demux: bool = False,
    ) -> None:
        width = low_rank or dim
        super().__init__(num_tokens, width)
        self.norm = LayerNorm(width) if norm else None
        self.low_rank = Linear(width, dim) if low_rank else None
        self.demux = demux
        if demux:
            self.out1 = Linear(width, dim)
            self.out2 = Linear(width, dim)

    @property
    def is_plain(self) -> bool:
        """Whether the table alone makes the embedding."""
        return self.norm is None and self.low_rank is None and not self.demux

    def forward(self, input: Tensor) -> Tensor:
        """Tokens [*] -> [*, dim]; the zero token gives zeros."""
        given = (input != ZERO_TOKEN)[..., None]
        tokens = input.clamp(min=0)
        if self.demux:
            return self._demuxed(tokens) * given
        y = super().forward(tokens)
        if self.norm is not None:
            y = self.norm(y)
        y = y * given
        return y if self.low_rank is None else self.low_rank(y)

    def _demuxed(self, tokens: Tensor) -> Tensor:
        second = tokens // self.num_embeddings - 1
        y = self.out1(F.embedding(tokens % self.num_embeddings, self.weight))
        return y + self.out2(F.embedding(second.clamp(min=0), self.weight)) * (second >= 0)[..., None]


class PackedEmbeddingSum(nn.Module):
    """The sum of several plain embeddings in one look-up: the tables stand one below the other."""

    table: Tensor  # [sum of tokens + 1, dim] float32; the last row is zeros
    first: Tensor  # [tables] the row where each table begins

    def __init__(self, embeddings: list[TokenEmbedding]) -> None:
        super().__init__()
        tables = [embedding.weight.detach() for embedding in embeddings]
        rows, like = sum(len(table) for table in tables), tables[0]
        table = torch.zeros(rows + 1, like.shape[1], device=like.device)
        # Into place one by one: a table may be mapped from a file, in another type.
        for part, source in zip(table[:-1].split([len(one) for one in tables]), tables, strict=True):
            part.copy_(source)
        self.register_buffer("table", table, persistent=False)
        sizes = torch.tensor([0, *[len(table) for table in tables[:-1]]], device=tables[0].device)
        self.register_buffer("first", sizes.cumsum(0), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, tables] -> [N, dim]."""
        rows = torch.where(tokens == ZERO_TOKEN, len(self.table) - 1, tokens.clamp(min=0) + self.first)
        return F.embedding_bag(rows, self.table, mode="sum")
