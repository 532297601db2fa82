"""The codec's first training: encoder and codebooks, against what a probe reads from the codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from moshi_agent.config import MimiConfig
from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.mimi.codebooks import CodebookConfig, CodebookTrainer
from moshi_agent.training.mimi.codec import CodecTrainer, Sampler, init_weights
from moshi_agent.training.runs.trainer import Training
from moshi_agent.training.tiny.probe import Probe, ProbeConfig, Spectrum


@dataclass(frozen=True, kw_only=True)
class EncoderTraining(Training):
    """How encoder and codebooks are trained."""

    name: ClassVar[str] = "encoder"
    steps: int = 3000
    batch: int = 6
    frames: int = 16
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.8, 0.99)
    continuous_steps: int = 300  # before the codebooks are set and used
    pool_steps: int = 30  # steps whose latents set the codebooks
    commitment_weight: float = 0.1
    semantic_weight: float = 0.5  # of what the first codebook alone tells
    seed: int = 5
    codebooks: CodebookConfig = field(default_factory=CodebookConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)


class EncoderTrainer(CodecTrainer):
    """Trains a new codec's encoder and codebooks. The decoder stays as drawn."""

    def __init__(self, model: MimiConfig, config: EncoderTraining, sample: Sampler) -> None:
        torch.manual_seed(config.seed)
        codec = MimiModel(model)
        init_weights(codec)
        probes = nn.ModuleList(Probe(model.seanet.dimension, config.probe) for _ in range(2))
        modules = (codec.encoder, codec.encoder_transformer, codec.downsample, codec.quantizer, probes)
        parameters = [parameter for module in modules for parameter in module.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, betas=config.betas)
        super().__init__(config, codec, optimizer, sample, probes=probes)
        self.config = config
        self.probes = probes
        self.codebooks = CodebookTrainer(codec.quantizer, config.codebooks)
        self.spectrum = Spectrum(config.probe)
        self.pool: list[Tensor] = []  # latents [B * T, C] of the last continuous steps

    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Trainer.losses`."""
        signal = self.crops(rng)
        latent = self.model.encode_latent(signal[:, None], None, None)
        return self._losses(latent, self.spectrum(signal), generator)

    def _losses(self, latent: Tensor, spectrum: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """latent: [B, T, C], spectrum: [B, T, values]."""
        config, quantizer = self.config, self.model.quantizer
        commitment = latent.new_zeros(())
        if self.step < config.continuous_steps:
            semantic, acoustic = (
                part.output_proj(part.input_proj(latent))
                for part in (quantizer.rvq_first, quantizer.rvq_rest)
            )
            if self.step >= config.continuous_steps - config.pool_steps:
                self.pool.append(latent.detach().flatten(0, 1))
        else:
            if self.step == config.continuous_steps:
                pool = torch.cat(self.pool) if self.pool else latent.detach().flatten(0, 1)
                self.codebooks.initialise(pool, generator)
                self.pool.clear()
            semantic, acoustic, commitment = self.codebooks.quantize(latent, self.step, generator)
        return {
            "all": self.probes[0](semantic + acoustic, spectrum),
            "semantic": config.semantic_weight * self.probes[1](semantic, spectrum),
            "commitment": config.commitment_weight * commitment,
        }

    def content(self) -> dict[str, Any]:
        """See `Trainer.content`."""
        return {**super().content(), "pool": self.pool}

    def restore(self, content: dict[str, Any]) -> None:
        """See `Trainer.restore`."""
        super().restore(content)
        self.pool = list(content["pool"])
