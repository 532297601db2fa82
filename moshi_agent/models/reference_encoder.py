"""The encoder of references: makes a few rows of a text, each of about four of its tokens.

ARC (arXiv:2510.20535): a Llama that looks both ways, whose last layer attends from averages of its input to
all of it, and a bridge of two matrices. Names of tensors are those of Kyutai's files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.config import ReferenceEncoderConfig

_EPSILON = 1e-5


class ReferenceEncoder(nn.Module):
    """Encodes the tokens of one text."""

    def __init__(self, config: ReferenceEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedder = _Embedder(config)
        self.bridge_module = _Bridge(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encodes [N] -> [R, row_dim], where R is N / tokens_per_row, rounded up."""
        return self.bridge_module(self.embedder(tokens))


class _Embedder(nn.Module):
    def __init__(self, config: ReferenceEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocabulary, config.dim)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """[N] -> [R, dim]."""
        x = self.tok_embeddings(tokens)
        keys = _rotation(self.config, len(tokens), tokens.device)
        for layer in self.layers[:-1]:
            x = layer(x, x, keys, keys)
        pooled = pool(x, group_sizes(len(tokens), self.config.tokens_per_row))
        # What is pooled is counted anew.
        return self.layers[-1](pooled, x, keys[: len(pooled)], keys)


class _Layer(nn.Module):
    def __init__(self, config: ReferenceEncoderConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.feed_forward = _FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.dim, eps=_EPSILON)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=_EPSILON)

    def forward(self, x: Tensor, source: Tensor, query_turns: Tensor, key_turns: Tensor) -> Tensor:
        """x: [R, dim], which attends to source: [N, dim]; turns: [R or N, head_dim / 2] -> [R, dim]."""
        normed, heard = self.attention_norm(x), self.attention_norm(source)
        x = x + self.attention(normed, heard, query_turns, key_turns)
        return x + self.feed_forward(self.ffn_norm(x))


class _Attention(nn.Module):
    def __init__(self, config: ReferenceEncoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, width, bias=False)
        self.wk = nn.Linear(config.dim, kv_width, bias=False)
        self.wv = nn.Linear(config.dim, kv_width, bias=False)
        self.wo = nn.Linear(width, config.dim, bias=False)

    def forward(self, x: Tensor, source: Tensor, query_turns: Tensor, key_turns: Tensor) -> Tensor:
        """See `_Layer.forward`."""
        q, k, v = (
            projected.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)
            for projected in (self.wq(x), self.wk(source), self.wv(source))
        )  # [heads, R or N, head_dim]
        k, v = (part.repeat_interleave(len(q) // len(k), dim=0) for part in (k, v))
        y = F.scaled_dot_product_attention(_turned(q, query_turns), _turned(k, key_turns), v)
        return self.wo(y.transpose(0, 1).flatten(1))


class _FeedForward(nn.Module):
    def __init__(self, config: ReferenceEncoderConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.dim_feedforward, bias=False)
        self.w2 = nn.Linear(config.dim_feedforward, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.dim_feedforward, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[R, dim] -> [R, dim]."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class _Bridge(nn.Module):
    def __init__(self, config: ReferenceEncoderConfig) -> None:
        super().__init__()
        self.layer1 = nn.Linear(config.dim, config.bridge_dim, bias=False)
        self.layer2 = nn.Linear(config.bridge_dim, config.row_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[R, dim] -> [R, row_dim]."""
        return self.layer2(self.layer1(x))


def group_sizes(tokens: int, tokens_per_row: int) -> list[int]:
    """Splits so many tokens into as few groups as are of `tokens_per_row` at most, the larger ones first.

    As the original does, a text shorter than one group is one.
    """
    groups = -(-tokens // tokens_per_row)
    size, larger = divmod(tokens, groups)
    return [size + 1] * larger + [size] * (groups - larger)


def pool(x: Tensor, sizes: list[int]) -> Tensor:
    """Averages groups of so many rows. [N, dim] -> [R, dim]."""
    return torch.stack([group.mean(0) for group in x.split(sizes)])


def _rotation(config: ReferenceEncoderConfig, positions: int, device: torch.device) -> Tensor:
    """The turns of each position, as complex numbers of length 1: [positions, head_dim / 2]."""
    exponents = torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim
    angles = torch.outer(torch.arange(positions, device=device).float(), config.max_period**-exponents)
    return torch.polar(torch.ones_like(angles), angles)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Turns each pair of neighbours. x: [heads, N, head_dim], turns: [N, head_dim / 2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
