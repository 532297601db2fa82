"""Choosing tokens from logits, each row by its own settings and its own stream of random numbers.

The random numbers are a function of the row's seed, how many steps it has taken, which token of the
step is drawn, and the candidate's rank. So a conversation draws the same numbers whoever shares the batch,
and those of a whole step are made at once, before any of its logits are known.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.nn import fused
from moshi_agent.nn.counter_random import GOLDEN, mix, uniform

MOST_CANDIDATES = 512  # of a draw whose cost may not depend on the settings


@dataclass
class Choice:
    """Says how one kind of token is chosen, per row. A temperature of 0 takes the best token."""

    inverse_temp: Tensor  # [B] float32; 1 where the best token is taken
    top_k: Tensor  # [B] int64; 0 keeps all, 1 where the best token is taken
    top_p: Tensor  # [B] float32; 0 keeps all

    def first_rows(self, rows: int) -> Choice:
        """Returns the first rows alone, as views."""
        return Choice(self.inverse_temp[:rows], self.top_k[:rows], self.top_p[:rows])

    def kept(self, candidates: int) -> Tensor:
        """Computes how many candidates each row keeps. -> [B] int64."""
        return torch.where(self.top_k > 0, self.top_k, candidates)


class RowSampling:
    """Holds the sampling settings of every row of a batch.

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
            best_alone = config.greedy or temp == 0
            # Filled: what is assigned would be copied from the host, and CUDA waits for that.
            choice.inverse_temp[row].fill_(1.0 if best_alone else 1.0 / max(temp, 1e-6))
            choice.top_k[row].fill_(1 if best_alone else top_k)
            choice.top_p[row].fill_(top_p)
        self.seed[row].fill_(config.seed)

    def row(self, row: int) -> SamplingConfig:
        """Returns the settings of one row."""
        return self._configs[row]

    def first_rows(self, rows: int) -> RowSampling:
        """Returns the first rows as views of these tensors; settings given later need a new view."""
        view = copy.copy(self)
        view.text, view.audio = self.text.first_rows(rows), self.audio.first_rows(rows)
        view.seed = self.seed[:rows]
        view._configs = self._configs[:rows]
        return view

    @property
    def all_greedy(self) -> bool:
        """Tells whether every row takes the best token, so that the settings do not matter."""
        return not self._constant_cost and all(config.greedy for config in self._configs)

    @property
    def uses_top_p(self) -> bool:
        """Tells whether any row may drop candidates for their probability."""
        return self._constant_cost or any(config.top_p or config.top_p_text for config in self._configs)

    def widest(self, text: bool, card: int) -> int:
        """Tells how many candidates the row that keeps the most keeps."""
        if self._constant_cost:
            return min(card, MOST_CANDIDATES)
        kept = [config.top_k_text if text else config.top_k for config in self._configs if not config.greedy]
        return card if not kept or 0 in kept else min(max(kept), card)

    def kind(self, text_card: int, audio_card: int) -> Hashable:
        """Tells settings apart under which a step computes something else, beyond what its tensors hold."""
        return (
            self.all_greedy,
            self.uses_top_p,
            self.widest(True, text_card),
            self.widest(False, audio_card),
        )

    def draws(self, counter: Tensor, text_card: int, audio_card: int, streams: int) -> Draws:
        """Prepares the draws of one step: a token of text, then `streams - 1` of audio.

        Args:
            counter: [B] int64, the number of steps each row has taken.
        """
        if self.all_greedy:
            return Draws(None, None, uses_top_p=False)
        key = mix(self.seed * GOLDEN + counter)
        text = KindOfDraw(self.text, key, range(1), self.widest(True, text_card))
        audio = KindOfDraw(self.audio, key, range(1, streams), self.widest(False, audio_card))
        return Draws(text, audio, self.uses_top_p)


def _choice(rows: int, device: torch.device) -> Choice:
    return Choice(
        torch.ones(rows, dtype=torch.float32, device=device),
        torch.zeros(rows, dtype=torch.long, device=device),
        torch.zeros(rows, dtype=torch.float32, device=device),
    )


class KindOfDraw:
    """Holds what the draws of one kind of token need beside the logits."""

    def __init__(self, choice: Choice, key: Tensor, streams: range, candidates: int) -> None:
        self.choice = choice
        self.candidates = candidates
        # [B, streams, candidates], -inf for what is not to be drawn
        if fused.serves(key):
            self.noise = fused.noise(key, streams.start, len(streams), choice.kept(candidates), candidates)
        else:
            self.noise = noise_reference(key, streams, choice.kept(candidates), candidates)


class Draws:
    """Makes the draws of one step; without kinds, the best token is always taken."""

    def __init__(self, text: KindOfDraw | None, audio: KindOfDraw | None, uses_top_p: bool) -> None:
        self.text = text
        self.audio = audio
        self._uses_top_p = uses_top_p

    def sample(self, logits: Tensor, stream: int) -> Tensor:
        """Samples the tokens of one stream, by the Gumbel-max trick. [B, card] -> [B] int64."""
        kind = self.text if stream == 0 else self.audio
        if kind is None:
            return logits.argmax(-1)
        if kind.candidates > MOST_CANDIDATES or not fused.serves(logits):
            return self.sample_reference(logits, stream)
        best, tokens = logits.float().topk(kind.candidates, dim=-1)  # [B, candidates], descending
        noise = kind.noise[:, max(0, stream - 1)]
        return fused.draw(best, tokens, noise, kind.choice.inverse_temp, kind.choice.top_p)

    def sample_reference(self, logits: Tensor, stream: int) -> Tensor:
        """Does the same by PyTorch's operators; the kernel is tested against it."""
        kind = self.text if stream == 0 else self.audio
        assert kind is not None
        best, tokens = logits.float().topk(kind.candidates, dim=-1)
        scaled = best * kind.choice.inverse_temp[:, None]
        noise = kind.noise[:, max(0, stream - 1)]
        if self._uses_top_p:
            noise = noise.masked_fill(_beyond_top_p(scaled, noise, kind.choice.top_p), -torch.inf)
        drawn = (scaled + noise).argmax(-1, keepdim=True)
        return tokens.gather(1, drawn)[:, 0]


def _beyond_top_p(scaled: Tensor, noise: Tensor, top_p: Tensor) -> Tensor:
    """Which candidates come after those that hold `top_p`. [B, N], [B, N], [B] -> [B, N] bool."""
    probabilities = scaled.masked_fill(noise == -torch.inf, -torch.inf).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    return (top_p > 0)[:, None] & (before > top_p[:, None])


def noise_reference(key: Tensor, streams: range, kept: Tensor, candidates: int) -> Tensor:
    """Makes Gumbel noise for each kept candidate. key, kept: [B] int64 -> [B, streams, candidates]."""
    dropped = torch.arange(candidates, device=key.device) >= kept[:, None]
    return _gumbel(key, streams, candidates).masked_fill_(dropped[:, None], -torch.inf)


def _gumbel(key: Tensor, streams: range, candidates: int) -> Tensor:
    """Gumbel noise for each candidate. key: [B] int64 -> [B, streams, candidates]."""
    stream = torch.arange(streams.start, streams.stop, device=key.device)
    rank = torch.arange(candidates, device=key.device)
    of_stream = mix(key[:, None] * GOLDEN + stream)
    return -torch.log(-torch.log(uniform(mix(of_stream[..., None] + rank * GOLDEN))))
