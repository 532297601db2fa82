"""The codec's second training: the decoder alone, while the codes stay what they are.

Once the language model's data is encoded the codes may not change any more; how they sound still may.
What is heard is the answer voice, so this training hears mostly that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.average import follow
from moshi_agent.training.codec import Sampler, refresh_codebooks
from moshi_agent.training.codec_losses import CodecLoss, CodecLossConfig
from moshi_agent.training.loop import Run
from moshi_agent.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class DecoderTraining:
    """How the decoder is trained on."""

    steps: int = 4500
    batch: int = 5
    frames: int = 16  # per crop
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.7, 0.99)
    clip: float = 1.0
    average_decay: float = 0.997
    seed: int = 7
    losses: CodecLossConfig = field(default_factory=CodecLossConfig)

    @property
    def schedule(self) -> Schedule:
        return Schedule(steps=self.steps, learning_rate=self.learning_rate)

    @property
    def run(self) -> Run:
        return Run(name="decoder", steps=self.steps)


class DecoderTrainer:
    """`model` comes with everything trained; what makes its codes is not touched."""

    def __init__(self, model: MimiModel, config: DecoderTraining, sample: Sampler) -> None:
        self.config = config
        self.sample = sample
        self.model = model
        self.average = copy.deepcopy(model)
        self.loss = CodecLoss(config.losses)
        self.parameters = list(decoder_parameters(model))
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, betas=config.betas)
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """One step; the figures of its losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.schedule.at(self.step)
        target = self._crops()
        with torch.no_grad():
            codes = self.model.quantizer.encode(self.model.encode_latent(target[:, None], None, None))
        output = self.model.decode_codes(codes, None, None)[:, 0]
        terms = self.loss(output, target, self.step)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()
        follow(self.average, self.model, self.config.average_decay, self.step)
        refresh_codebooks(self.average)
        self.step += 1
        return {"loss": total.item(), **{k: v.item() for k, v in terms.items()}, "norm": float(norm)}

    def _crops(self) -> Tensor:
        """[B, T]"""
        rng = np.random.default_rng([self.config.seed, self.step])
        samples = self.config.frames * self.model.frame_size
        return torch.from_numpy(self.sample(rng, self.config.batch, samples))

    def content(self) -> dict[str, Any]:
        """Everything that a step depends on."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Takes what `content` gave."""
        self.step = content["step"]
        self.optimizer.load_state_dict(content["optimizer"])
        for model, name in ((self.model, "model"), (self.average, "average")):
            model.load_state_dict(content[name])
            refresh_codebooks(model)


def decoder_parameters(model: MimiModel) -> Iterator[nn.Parameter]:
    """What turns codes into sound, without the codebooks themselves."""
    quantizer = model.quantizer
    parts = (quantizer.rvq_first.output_proj, quantizer.rvq_rest.output_proj)
    for part in (*parts, model.upsample, model.decoder_transformer, model.decoder):
        yield from part.parameters()
