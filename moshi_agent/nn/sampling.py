"""Choosing tokens from logits, each row by its own settings and its own stream of random numbers.

The random numbers are a function of the row's seed, how many steps it has taken, which token of the
step is drawn, and the candidate. So a conversation draws the same numbers whoever shares the batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as int64
_MIX_1 = -4658895280553007687  # the multipliers of SplitMix64 (Steele et al. 2014)
_MIX_2 = -7723592293110705685

MOST_CANDIDATES = 512  # of a draw whose cost may not depend on the settings


@dataclass
class Choice:
    """How one kind of token is chosen, per row. Where `temp` is 0 the best token is taken."""

    temp: Tensor  # [B] float32
    top_k: Tensor  # [B] int64; 0 keeps all
    top_p: Tensor  # [B] float32; 0 keeps all

    def first_rows(self, rows: int) -> Choice:
        """The first rows alone, as views."""
        return Choice(self.temp[:rows], self.top_k[:rows], self.top_p[:rows])


class RowSampling:
    """The sampling settings of every row of a batch.

    With `constant_cost` every step draws in the same way whatever the settings are, as a captured graph
    has to. Then a draw is among the best `MOST_CANDIDATES`, also where `top_k` says more or all.
    """

    def __init__(
        self, rows: int, device: torch.device, config: SamplingConfig, constant_cost: bool = False
    ) -> None:
        self._constant_cost = constant_cost
        self.text = _choice(rows, device)
        self.audio = _choice(rows, device)
        self.seed = torch.zeros(rows, dtype=torch.long, device=device)  # [B]
        self._configs = [config] * rows
        for row in range(rows):
            self.set_row(row, config)

    def set_row(self, row: int, config: SamplingConfig) -> None:
        """Gives one row its settings. Rows that share a seed still draw alike only for like histories."""
        self._configs[row] = config
        for choice, temp, top_k, top_p in (
            (self.text, config.temp_text, config.top_k_text, config.top_p_text),
            (self.audio, config.temp, config.top_k, config.top_p),
        ):
            choice.temp[row] = 0.0 if config.greedy else temp
            choice.top_k[row] = top_k
            choice.top_p[row] = top_p
        self.seed[row] = config.seed

    def row(self, row: int) -> SamplingConfig:
        """The settings of one row."""
        return self._configs[row]

    def first_rows(self, rows: int) -> RowSampling:
        """The first rows alone, as views of the tensors here; settings given later need a new view."""
        view = copy.copy(self)
        view.text, view.audio = self.text.first_rows(rows), self.audio.first_rows(rows)
        view.seed = self.seed[:rows]
        view._configs = self._configs[:rows]
        return view

    @property
    def all_greedy(self) -> bool:
        """Whether the best tokens are all that is wanted, and the settings may be forgotten."""
        return not self._constant_cost and all(config.greedy for config in self._configs)

    def widest(self, text: bool, card: int) -> int:
        """How many candidates the row that keeps the most keeps."""
        if self._constant_cost:
            return min(card, MOST_CANDIDATES)
        kept = [config.top_k_text if text else config.top_k for config in self._configs if not config.greedy]
        return card if not kept or 0 in kept else min(max(kept), card)


def _choice(rows: int, device: torch.device) -> Choice:
    return Choice(
        torch.zeros(rows, device=device),
        torch.zeros(rows, dtype=torch.long, device=device),
        torch.zeros(rows, device=device),
    )


def sample(
    logits: Tensor, choice: Choice, seed: Tensor, counter: Tensor, draw: int, candidates: int
) -> Tensor:
    """Draws one token for each row.

    Args:
        logits: [B, card].
        seed, counter: [B] int64; `counter` is the number of steps the row has taken.
        draw: which token of the step this is.
        candidates: at least the largest `top_k` in use.

    Returns:
        [B] int64.
    """
    best, tokens = logits.float().topk(candidates, dim=-1)  # [B, candidates], descending
    scaled = best / choice.temp.clamp(min=1e-6)[:, None]
    rank = torch.arange(candidates, device=logits.device)
    limit = torch.where(choice.top_k > 0, choice.top_k, candidates)
    dropped = rank >= limit[:, None]
    probabilities = scaled.masked_fill(dropped, -torch.inf).softmax(-1)
    # A candidate stays while those before it hold less than top_p.
    before = probabilities.cumsum(-1) - probabilities
    dropped |= (choice.top_p > 0)[:, None] & (before > choice.top_p[:, None])
    gumbel = -torch.log(-torch.log(_uniform(seed, counter, draw, tokens)))
    drawn = (scaled + gumbel).masked_fill(dropped, -torch.inf).argmax(-1)
    chosen = torch.where(choice.temp > 0, drawn, 0)
    return tokens.gather(1, chosen[:, None])[:, 0]


def _uniform(seed: Tensor, counter: Tensor, draw: int, tokens: Tensor) -> Tensor:
    """Numbers strictly between 0 and 1, one for each candidate. seed, counter: [B], tokens: [B, N]."""
    key = _mix(_mix(seed * _GOLDEN + counter) * _GOLDEN + draw)
    bits = (_mix(key[:, None] + tokens * _GOLDEN) >> 40) & 0xFFFFFF
    return (bits.float() + 0.5) / 2**24


def _mix(x: Tensor) -> Tensor:
    """Scatters the bits of int64 numbers."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
