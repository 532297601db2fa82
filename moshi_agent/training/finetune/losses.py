"""The losses of a fine-tuning: on the model's text and its own codes, weighed as moshi-finetune does.

Each of the two is a cross entropy over all tokens of a batch, divided by the sum of their weights.
https://github.com/kyutai-labs/moshi-finetune
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.models.lm import LMModel
from moshi_agent.nn.conditioners import ConditionAttributes, ConditionTensors
from moshi_agent.nn.embedding import ZERO_TOKEN
from moshi_agent.training.finetune.config import NoiseConfig
from moshi_agent.training.stereo.dataset import Batch


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Sets weights, noise on what is read, and the type that products are computed in."""

    first_codebook_weight: float = 1.0
    text_padding_weight: float = 0.5
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    depth_share: float = 1.0
    dtype: torch.dtype = torch.float32


class Objective(nn.Module):
    """Computes a model's losses. It is a module, so that what shards the model sees the whole of a pass."""

    def __init__(self, lm: LMModel, config: ObjectiveConfig) -> None:
        super().__init__()
        self.lm = lm
        self.config = config

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Computes the loss of the text and of the audio, scalars; training makes their sum smaller.

        Args:
            batch: on any device.
            generator: on the CPU, of the noise and of the frames that are left out; None for neither.
        """
        device = self.lm.device
        lower = self.config.dtype != torch.float32
        with torch.autocast(device.type, self.config.dtype if lower else torch.bfloat16, enabled=lower):
            references = None if batch.references is None else batch.references.to(device)
            return self._losses(batch.codes.to(device), references, self._conditions(batch), generator)

    def _losses(
        self,
        codes: Tensor,
        references: Tensor | None,
        conditions: ConditionTensors | None,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """codes: [B, 1 + n_q, T], references: [B, T]."""
        lm, own = self.lm, slice(0, 1 + self.lm.dep_q)
        target = lm.delayed(codes)
        noise = self.config.noise
        given = (
            lm.delayed(with_noise(lm, codes, noise, generator)) if generator and any_noise(noise) else target
        )
        fused = lm.fuse(conditions)
        hidden, text_logits = lm.temporal(given[:, :, :-1], conditions=fused, references=references)
        known = (target != ZERO_TOKEN) & (target != lm.initial_tokens()[:, None])
        target, known, given = target[:, own, 1:], known[:, own, 1:], given[:, own, 1:]
        return {
            "text": self._text(text_logits, target[:, 0], known[:, 0]),
            "audio": self._audio(hidden, target, given, known, generator),
        }

    def _text(self, logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """logits: [B, T, text_card_out], target and known: [B, T]."""
        config = self.lm.config
        silent = (target == config.text_padding_id) | (target == config.text_end_padding_id)
        weights = torch.where(silent, self.config.text_padding_weight, 1.0) * known
        return _weighted(logits.flatten(0, 1), target.flatten(), weights.flatten())

    def _audio(
        self, hidden: Tensor, target: Tensor, given: Tensor, known: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """hidden: [B, T, dim], target, given and known: [B, 1 + dep_q, T], text first."""
        lm = self.lm
        if not lm.dep_q:
            return hidden.new_zeros((), dtype=torch.float32)
        chosen = self._chosen(known[:, 1:].any(1), generator)
        # The chosen frames stand in a row: the depth transformer does not look from one to the next.
        rows = hidden.flatten(0, 1)[chosen][None]  # [1, N, dim]
        target, given, known = (one.transpose(1, 2).flatten(0, 1)[chosen].T for one in (target, given, known))
        logits = lm.depth_logits(rows, given[None])[0]  # [dep_q, N, card]
        weights = known[1:].float()
        weights[0] *= self.config.first_codebook_weight
        return _weighted(logits.flatten(0, 1), target[1:].flatten(), weights.flatten())

    def _chosen(self, known: Tensor, generator: torch.Generator | None) -> Tensor:
        """Numbers of the frames that count, among all of a batch. known: [B, T] bool -> [N]."""
        if generator is not None and self.config.depth_share < 1:
            drawn = torch.rand(known.shape, generator=generator) < self.config.depth_share
            known = known & drawn.to(known.device)
        chosen = known.flatten().nonzero()[:, 0]
        # Every weight has its part in every pass, though it may be a part of nothing.
        return chosen if len(chosen) else torch.zeros(1, dtype=torch.long, device=known.device)

    def _conditions(self, batch: Batch) -> ConditionTensors | None:
        provider = self.lm.condition_provider
        if provider is None:
            return None
        names = list(provider.whole)
        return provider.prepare_and_provide(
            [
                ConditionAttributes(text={name: (one or {}).get(name) for name in names})
                for one in batch.text_conditions
            ]
        )


def _weighted(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy. logits: [N, card], target and weights: [N]; a weight of 0 is of no target."""
    losses = F.cross_entropy(logits.float(), target.where(weights > 0, 0), reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def any_noise(noise: NoiseConfig) -> bool:
    return max(noise.text, noise.own, noise.user) > 0


def with_noise(lm: LMModel, codes: Tensor, noise: NoiseConfig, generator: torch.Generator) -> Tensor:
    """Replaces a few of the tokens that are read, [B, 1 + n_q, T]; none where there is nothing."""
    shares = torch.full((codes.shape[1], 1), noise.own)
    shares[0], shares[1 + lm.dep_q :] = noise.text, noise.user
    shares[1 + lm.dep_q : 2 + lm.dep_q] = 0.0
    replaced = (torch.rand(codes.shape, generator=generator) < shares).to(codes.device)
    random = torch.randint(lm.card, codes.shape, generator=generator)
    random[:, 0] = lm.config.text_padding_id
    return torch.where(replaced & (codes != ZERO_TOKEN), random.to(codes.device), codes)
