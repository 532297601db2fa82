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
from moshi_agent.nn.embedding import ZERO_TOKEN
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
    # How many frames the depth transformer sees: it has learnt long before the temporal one has.
    spoken_share: float = 0.7  # of those in which the bot speaks
    quiet_share: float = 0.03  # of those in which it is quiet
    # The frames in which the bot still speaks while the caller does decide whether it stops; they are few.
    # Were their share far above `spoken_share`, the bot would stop at any noise.
    interrupted_share: float = 1.0
    own_noise: float = 0.03  # share of the bot's codes that are replaced where they are read
    user_noise: float = 0.05  # the same of the caller's acoustic codes
    text_noise: float = 0.005
    # The caller's codes tell one rendering from another: what is said must be read from less.
    fewer_codebooks_share: float = 0.4  # of crops in which some of the caller's codebooks are not read
    gap_share: float = 0.05  # of the caller's frames that are not read at all


@dataclass(frozen=True)
class Batch:
    """Crops of calls."""

    codes: Tensor  # [B, 1 + n_q, T]
    references: Tensor  # [B, T]
    asked: Tensor  # [B, T]
    late: Tensor  # [B, T] bool, where the bot should have stopped before: what it does there is no example
    told: Tensor  # [B, T] bool, where the bot begins what it was told to say
    begins: Tensor  # [B] bool, whether a crop begins where its call does


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
        target = model.delayed(batch.codes)
        given = model.delayed(self._with_noise(batch.codes, generator))
        references = None if model.oracle_emb is None else batch.references
        hidden, text_logits = model.temporal(given[:, :, :-1], references=references)
        own, given = target[:, : 1 + model.dep_q, 1:], given[:, : 1 + model.dep_q, 1:]
        quiet = (own[:, 1:] == self.quiet[None, :, None]).all(1)  # [B, T]
        interrupted = ~quiet & (batch.asked > 0)
        chosen = self._chosen(quiet, interrupted, batch.begins, generator)
        chosen &= ~batch.late
        # The text is a frame ahead of the sound.
        unforeseen = batch.told & (batch.references == model.config.text_padding_id)
        no_example = F.pad(batch.late[:, 1:], (0, 1)) | unforeseen
        return {
            "text": config.text_weight * self._text(text_logits, own[:, 0], interrupted, no_example),
            "audio": config.audio_weight * self._audio(hidden, own, given, chosen),
            "asked": config.asked_weight * self._asked(hidden, batch.asked),
        }

    def _text(self, logits: Tensor, target: Tensor, interrupted: Tensor, no_example: Tensor) -> Tensor:
        """logits: [B, T, text_card], target, interrupted and no_example: [B, T]."""
        config = self.model.config
        silent = (target == config.text_padding_id) | (target == config.text_end_padding_id)
        # To write no more when interrupted is to say something.
        weights = torch.where(silent & ~interrupted, self.config.padding_weight, 1.0) * ~no_example
        losses = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
        return (losses * weights).sum() / weights.sum()

    def _audio(self, hidden: Tensor, target: Tensor, given: Tensor, chosen: Tensor) -> Tensor:
        """hidden: [B, T, dim], target and given: [B, 1 + dep_q, T], text first, chosen: [B, T] bool."""
        chosen = chosen.flatten().nonzero()[:, 0]
        if not len(chosen):
            return hidden.new_zeros(())
        # The chosen frames stand in a row: the depth transformer does not look from one to the next.
        rows = hidden.flatten(0, 1)[chosen][None]
        tokens = given.transpose(1, 2).flatten(0, 1)[chosen].T[None]
        wanted = target[:, 1:].transpose(1, 2).flatten(0, 1)[chosen].T[None]
        logits = self.model.depth_logits(rows, tokens)  # [1, dep_q, N, card]
        # The late codebooks have nothing to say in a call's first frame.
        known = wanted < self.model.card
        losses = F.cross_entropy(logits.float().movedim(-1, 1), wanted.where(known, 0), reduction="none")
        losses = (losses * known).sum((0, 2)) / known.sum((0, 2)).clamp(min=1)
        weights = torch.ones(self.model.dep_q)
        weights[0] = self.config.first_codebook_weight
        return (losses * weights).sum() / weights.sum()

    def _chosen(
        self, quiet: Tensor, interrupted: Tensor, begins: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Which frames the depth transformer sees, [B, T] bool. quiet, interrupted: [B, T], begins: [B]."""
        shares = torch.where(quiet, self.config.quiet_share, self.config.spoken_share)
        shares = torch.where(interrupted, self.config.interrupted_share, shares)
        chosen = torch.rand(quiet.shape, generator=generator) < shares
        # Nothing tells what a call's middle begins with; its beginning must not go wrong.
        chosen[:, 0] = begins
        return chosen

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
        codes = torch.where(replaced, noise, codes)
        return torch.where(self._unread(codes, generator), ZERO_TOKEN, codes)

    def _unread(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Which of the caller's tokens are left out, [B, 1 + n_q, T] bool."""
        batch, streams, steps = codes.shape
        first = 1 + self.model.dep_q
        acoustic = streams - first - 1
        kept = torch.randint(0, acoustic, (batch,), generator=generator)
        fewer = torch.rand(batch, generator=generator) < self.config.fewer_codebooks_share
        kept = torch.where(fewer, kept, acoustic)
        gaps = torch.rand(batch, 1, steps, generator=generator) < self.config.gap_share
        unread = torch.zeros(codes.shape, dtype=torch.bool)
        unread[:, first:] = gaps
        unread[:, first + 1 :] |= (torch.arange(acoustic) >= kept[:, None])[:, :, None]
        return unread
