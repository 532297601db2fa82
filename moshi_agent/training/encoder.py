"""The codec's first training: encoder and codebooks, against what a probe reads from the codes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moshi_agent.config import MimiConfig
from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.average import follow
from moshi_agent.training.codebooks import CodebookConfig, CodebookTrainer
from moshi_agent.training.codec import Sampler, init_weights, refresh_codebooks
from moshi_agent.training.loop import Run
from moshi_agent.training.probe import Probe, ProbeConfig, Spectrum
from moshi_agent.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class EncoderTraining:
    """How encoder and codebooks are trained."""

    steps: int = 3000
    batch: int = 6
    frames: int = 16  # per crop
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.8, 0.99)
    clip: float = 1.0
    continuous_steps: int = 300  # before the codebooks are set and used
    pool_steps: int = 30  # steps whose latents set the codebooks
    commitment_weight: float = 0.1
    semantic_weight: float = 0.5  # of what the first codebook alone tells
    average_decay: float = 0.995
    seed: int = 5
    codebooks: CodebookConfig = field(default_factory=CodebookConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    @property
    def schedule(self) -> Schedule:
        return Schedule(steps=self.steps, learning_rate=self.learning_rate)

    @property
    def run(self) -> Run:
        return Run(name="encoder", steps=self.steps)


class EncoderTrainer:
    """The codec, its running average and everything else that a step changes. The decoder stays as drawn."""

    def __init__(self, model: MimiConfig, config: EncoderTraining, sample: Sampler) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.sample = sample
        self.model = MimiModel(model)
        init_weights(self.model)
        self.average = copy.deepcopy(self.model)
        self.codebooks = CodebookTrainer(self.model.quantizer, config.codebooks)
        self.spectrum = Spectrum(config.probe)
        self.probes = nn.ModuleList(Probe(model.seanet.dimension, config.probe) for _ in range(2))
        parts = (self.model.encoder, self.model.encoder_transformer, self.model.downsample)
        modules = (*parts, self.model.quantizer, self.probes)
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, betas=config.betas)
        self.pool: list[Tensor] = []  # latents [B * T, C] of the last continuous steps
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """One step; the figures of its losses."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = config.schedule.at(self.step)
        rng = np.random.default_rng([config.seed, self.step])
        signal = torch.from_numpy(self.sample(rng, config.batch, config.frames * self.model.frame_size))
        latent = self.model.encode_latent(signal[:, None], None, None)
        terms = self._losses(latent, self.spectrum(signal), generator)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimizer.step()
        follow(self.average, self.model, config.average_decay, self.step)
        refresh_codebooks(self.average)
        self.step += 1
        return {"loss": total.item(), **{k: v.item() for k, v in terms.items()}, "norm": float(norm)}

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
        """Everything that a step depends on."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pool": self.pool,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Takes what `content` gave."""
        self.step = content["step"]
        self.pool = list(content["pool"])
        self.probes.load_state_dict(content["probes"])
        self.optimizer.load_state_dict(content["optimizer"])
        for model, name in ((self.model, "model"), (self.average, "average")):
            model.load_state_dict(content[name])
            refresh_codebooks(model)
