"""Measures what a codec is worth: on pieces that it is not trained with, through all codebooks in use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.mimi.audio_data import Batch
from moshi_agent.training.mimi.codec_losses import CodecLoss, CodecLossConfig
from moshi_agent.training.mimi.distillation import Distillation, Targets
from moshi_agent.training.mimi.spectral import SpectralConfig, SpectralLoss, si_snr_db

_ROWS = 8  # evaluated at once


@dataclass(frozen=True)
class Evaluated:
    """Holds metrics by name, and what the pieces sound like from their codes."""

    metrics: dict[str, float]
    audio: Tensor = field(repr=False)  # [B, T]


@dataclass(frozen=True)
class Judge:
    """Evaluates codecs on the same pieces, and against the teacher where there is one."""

    batch: Batch
    spectral: SpectralConfig
    targets: Targets | None = None
    distillation: Distillation | None = None

    @torch.no_grad()
    def evaluate(self, model: MimiModel) -> Evaluated:
        """Computes the metrics of a codec:

        `mel_distance`, the mean absolute difference of log mel magnitudes; `spectral`, the loss of this name;
        `si_snr_db`, where not all is silent; of each codebook `usage`, the share of its codes that occurred,
        and `perplexity`, by how many equally frequent codes it could be replaced; `semantic_similarity`, the
        mean cosine to the teacher.
        """
        target = self.batch.audio.to(model.device)
        latent = torch.cat([model.encode_latent(part[:, None], None, None) for part in target.split(_ROWS)])
        codes = model.quantizer.encode(latent)
        output = torch.cat([model.decode_codes(part, None, None)[:, 0] for part in codes.split(_ROWS)])
        metrics = self._distances(model, output, target)
        metrics |= codebook_metrics(codes, model.cardinality)
        if self.targets is not None and self.distillation is not None:
            first = model.quantizer.rvq_first
            semantic = first.decode(codes[:, : first.n_q])
            similarity = self.distillation.similarity(semantic, self.targets.to(model.device))
            metrics["semantic_similarity"] = similarity.item()
        return Evaluated(metrics, output.cpu())

    def _distances(self, model: MimiModel, output: Tensor, target: Tensor) -> dict[str, float]:
        mel = CodecLoss(CodecLossConfig(sample_rate_hz=model.sample_rate)).to(model.device)
        spectral = SpectralLoss(self.spectral, model.sample_rate).to(model.device)
        metrics = {
            "mel_distance": mel.log_mel_distance(output, target),
            "spectral": spectral(output, target).item(),
        }
        ratio_db = si_snr_db(output, target).nanmean()
        return metrics if bool(ratio_db.isnan()) else metrics | {"si_snr_db": ratio_db.item()}


def codebook_metrics(codes: Tensor, bins: int) -> dict[str, float]:
    """Computes usage and perplexity of each codebook, and their means. codes: [B, K, T]."""
    usages: list[float] = []
    perplexities: list[float] = []
    for index in range(codes.shape[1]):
        shares = torch.bincount(codes[:, index].flatten(), minlength=bins).double() / codes[:, index].numel()
        used = shares[shares > 0]
        usages.append(len(used) / bins)
        perplexities.append(math.exp(-float((used * used.log()).sum())))
    metrics = {"usage": _mean(usages), "perplexity": _mean(perplexities)}
    metrics |= {f"usage_{index}": usage for index, usage in enumerate(usages)}
    return metrics | {f"perplexity_{index}": value for index, value in enumerate(perplexities)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
