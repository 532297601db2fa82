"""Training of the codec: encoder, codebooks and decoder together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moshi_agent.config import MimiConfig
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.conv import CausalConv1d, CausalConvTranspose1d
from moshi_agent.training.average import follow
from moshi_agent.training.codebooks import CodebookConfig, CodebookTrainer
from moshi_agent.training.codec_losses import CodecLoss, CodecLossConfig
from moshi_agent.training.loop import Run
from moshi_agent.training.schedule import Schedule

INITIAL_GAIN = 1.2  # makes up for what the activations take
INITIAL_LEVEL = 0.1  # about speech, where 1 would be far louder

# sample(rng, batch, samples) -> float32 [batch, samples]
Sampler = Callable[[np.random.Generator, int, int], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class CodecTraining:
    """How the codec is trained."""

    steps: int = 4000
    batch: int = 5
    frames: int = 16  # per crop
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.7, 0.99)
    clip: float = 1.0
    continuous_steps: int = 400  # before the codebooks are set and used
    pool_steps: int = 60  # steps whose latents set the codebooks
    commitment_weight: float = 0.25
    average_decay: float = 0.997
    seed: int = 5
    losses: CodecLossConfig = field(default_factory=CodecLossConfig)
    codebooks: CodebookConfig = field(default_factory=CodebookConfig)

    @property
    def schedule(self) -> Schedule:
        return Schedule(steps=self.steps, learning_rate=self.learning_rate)

    @property
    def run(self) -> Run:
        return Run(name="codec", steps=self.steps)


class CodecTrainer:
    """The model, its running average and everything else that a step changes."""

    def __init__(self, model: MimiConfig, config: CodecTraining, sample: Sampler) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.sample = sample
        self.model = MimiModel(model)
        init_weights(self.model)
        self.average = MimiModel(model)
        self.average.load_state_dict(self.model.state_dict())
        self.codebooks = CodebookTrainer(self.model.quantizer, config.codebooks)
        self.loss = CodecLoss(config.losses)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, betas=config.betas)
        self.pool: list[Tensor] = []  # latents [B * T, C] of the last continuous steps
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """One step; the figures of its losses."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = config.schedule.at(self.step)
        target = self._crops()
        latent = self.model.encode_latent(target[:, None], None, None)
        quantized, commitment = self._quantize(latent, generator)
        output = self.model.decode_quantized(quantized, None, None)[:, 0]
        terms = self.loss(output, target, self.step)
        terms["commitment"] = config.commitment_weight * commitment
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.follow_average()
        self.step += 1
        return {"loss": total.item(), **{k: v.item() for k, v in terms.items()}, "norm": float(norm)}

    def _crops(self) -> Tensor:
        """[B, T]"""
        config = self.config
        rng = np.random.default_rng([config.seed, self.step])
        samples = config.frames * self.model.frame_size
        return torch.from_numpy(self.sample(rng, config.batch, samples))

    def _quantize(self, latent: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """[B, T, C] -> its quantization and the commitment loss; left as it is in the first steps."""
        first = self.config.continuous_steps
        if self.step >= first:
            if self.step == first:
                pool = torch.cat(self.pool) if self.pool else latent.detach().flatten(0, 1)
                self.codebooks.initialise(pool, generator)
                self.pool.clear()
            quantized = self.codebooks.quantize(latent, self.step, generator)
            return quantized.latent, quantized.commitment
        if self.step >= first - self.config.pool_steps:
            self.pool.append(latent.detach().flatten(0, 1))
        quantizer = self.model.quantizer
        both = (quantizer.rvq_first, quantizer.rvq_rest)
        through = torch.stack([part.output_proj(part.input_proj(latent)) for part in both]).sum(0)
        return through, latent.new_zeros(())

    def follow_average(self) -> None:
        follow(self.average, self.model, self.config.average_decay, self.step)
        refresh_codebooks(self.average)

    def content(self) -> dict[str, Any]:
        """Everything that a step depends on."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pool": self.pool,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Takes what `content` gave."""
        self.step = content["step"]
        self.pool = list(content["pool"])
        self.optimizer.load_state_dict(content["optimizer"])
        for model, name in ((self.model, "model"), (self.average, "average")):
            model.load_state_dict(content[name])
            refresh_codebooks(model)


def refresh_codebooks(model: MimiModel) -> None:
    """To be called after a model's buffers have been written."""
    for part in (model.quantizer.rvq_first, model.quantizer.rvq_rest):
        for index in range(len(part.codebooks)):
            part.codebook(index).refresh()


def init_weights(model: MimiModel) -> None:
    """Draws the convolutions so that a signal keeps its size on its way, and the output begins quietly."""
    for module in model.modules():
        if isinstance(module, CausalConv1d):
            inputs = module.in_channels * module.kernel_size
        elif isinstance(module, CausalConvTranspose1d):
            # Each output step sees this many of the kernel's steps.
            inputs = (1 if module.depthwise else module.in_channels) * module.kernel_size / module.stride
        else:
            continue
        std = INITIAL_GAIN / math.sqrt(inputs)
        nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
    last = model.decoder.model[-1]
    assert isinstance(last, CausalConv1d)
    with torch.no_grad():
        last.weight.mul_(INITIAL_LEVEL)
