"""What the language model is trained against: its text, its own codes, and what the caller asks.

The last is a head of its own that exists in training only. It is there because an answer's identity
shows in one text token of an exchange, too rarely to learn from in a short training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.models.lm import LMModel
from moshi_agent.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class LMLossConfig:
    """Weights, and the noise on what the model reads."""

    padding_weight: float = 0.3  # of text tokens that say nothing
    first_codebook_weight: float = 4.0
    audio_weight: float = 1.0
    text_weight: float = 1.0
    asked_weight: float = 0.5
    nothing_asked_weight: float = 0.05
    quiet_share: float = 0.08  # of the frames in which the bot is quiet, how many the depth transformer sees
    own_noise: float = 0.03  # share of the bot's codes that are replaced where they are read
    user_noise: float = 0.03  # the same of the caller's acoustic codes
    text_noise: float = 0.005


@dataclass(frozen=True)
class Batch:
    """Crops of calls."""

    codes: Tensor  # [B, 1 + n_q, T]
    asked: Tensor  # [B, T]


class LMLoss:
    """The losses of a batch; every term a mean over what it looks at."""

    def __init__(self, model: LMModel, asked_head: Linear, quiet: Tensor, config: LMLossConfig) -> None:
        self.model = model
        self.asked_head = asked_head  # [dim] -> [1 + answers]
        self.quiet = quiet  # [dep_q] the bot's codes where it is silent
        self.config = config

    def __call__(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Weighted terms, scalars; the loss is their sum."""
        model, config = self.model, self.config
        target = delayed(model, batch.codes)
        given = delayed(model, self._with_noise(batch.codes, generator))
        hidden, text_logits = model.temporal(given[:, :, :-1])
        own = target[:, : 1 + model.dep_q, 1:]
        return {
            "text": config.text_weight * self._text(text_logits, own[:, 0]),
            "audio": config.audio_weight * self._audio(hidden, own, given[:, : 1 + model.dep_q, 1:], generator),
            "asked": config.asked_weight * self._asked(hidden, batch.asked),
        }

    def _text(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits: [B, T, text_card], target: [B, T]."""
        config = self.model.config
        silent = (target == config.text_padding_id) | (target == config.text_end_padding_id)
        weights = torch.where(silent, self.config.padding_weight, 1.0)
        losses = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
        return (losses * weights).sum() / weights.sum()

    def _audio(self, hidden: Tensor, target: Tensor, given: Tensor, generator: torch.Generator) -> Tensor:
        """hidden: [B, T, dim], target and given: [B, 1 + dep_q, T], text first."""
        quiet = (target[:, 1:] == self.quiet[None, :, None]).all(1)  # [B, T]
        drawn = torch.rand(quiet.shape, generator=generator) < self.config.quiet_share
        known = (target[:, 1:] < self.model.card).all(1)
        chosen = ((~quiet | drawn) & known).flatten().nonzero()[:, 0]
        if not len(chosen):
            return hidden.new_zeros(())
        # The chosen frames stand in a row: the depth transformer does not look from one to the next.
        rows = hidden.flatten(0, 1)[chosen][None]
        tokens = given.transpose(1, 2).flatten(0, 1)[chosen].T[None]
        wanted = target[:, 1:].transpose(1, 2).flatten(0, 1)[chosen].T[None]
        logits = self.model.depth_logits(rows, tokens)  # [1, dep_q, N, card]
        losses = F.cross_entropy(logits.float().movedim(-1, 1), wanted, reduction="none").mean((0, 2))
        weights = torch.ones(self.model.dep_q)
        weights[0] = self.config.first_codebook_weight
        return (losses * weights).sum() / weights.sum()

    def _asked(self, hidden: Tensor, asked: Tensor) -> Tensor:
        """hidden: [B, T, dim], asked: [B, T]."""
        losses = F.cross_entropy(self.asked_head(hidden).float().transpose(1, 2), asked, reduction="none")
        weights = torch.where(asked == 0, self.config.nothing_asked_weight, 1.0)
        return (losses * weights).sum() / weights.sum()

    def _with_noise(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Replaces a few of the tokens that are read, [B, 1 + n_q, T]."""
        model, config = self.model, self.config
        dep_q = model.dep_q
        shares = torch.full((codes.shape[1], 1), config.user_noise)
        shares[0], shares[1 : 1 + dep_q] = config.text_noise, config.own_noise
        shares[1 + dep_q] = config.user_noise / 3
        replaced = torch.rand(codes.shape, generator=generator) < shares
        noise = torch.randint(model.card, codes.shape, generator=generator)
        noise[:, 0] = model.config.text_padding_id
        return torch.where(replaced, noise, codes)


def delayed(model: LMModel, codes: Tensor) -> Tensor:
    """Each stream shifted by its delay behind the initial tokens, [B, K, T] -> [B, K, T + 1]."""
    out = model.initial_tokens()[None, :, None].repeat(codes.shape[0], 1, codes.shape[2] + 1)
    for stream, delay in enumerate(model.config.delays):
        out[:, stream, 1 + delay :] = codes[:, stream, : codes.shape[2] - delay]
    return out
