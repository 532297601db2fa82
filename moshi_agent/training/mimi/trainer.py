"""Makes the steps of a codec's training: codec, codebooks and discriminator, on the same pieces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.transformer import ProjectedTransformer
from moshi_agent.training.mimi.adversarial import adversarial_loss, discriminator_loss, feature_loss
from moshi_agent.training.mimi.audio_data import Batch, BatchReader
from moshi_agent.training.mimi.balancer import Balancer
from moshi_agent.training.mimi.codebooks import CodebookTrainer
from moshi_agent.training.mimi.codec import decoder_parameters, refresh_codebooks
from moshi_agent.training.mimi.config import MimiTraining
from moshi_agent.training.mimi.discriminator import Discriminator, Verdict
from moshi_agent.training.mimi.distillation import Distillation
from moshi_agent.training.mimi.spectral import SpectralLoss, waveform_loss
from moshi_agent.training.mimi.teacher import Teacher
from moshi_agent.training.runs import ema
from moshi_agent.training.runs.distributed import average_gradients, rank
from moshi_agent.training.runs.trainer import AveragedTrainer

_VECTORS_PER_CODE = 8  # that the first codebooks of a new codec are made from


class MimiTrainer(AveragedTrainer[MimiModel]):
    """Trains a codec, or its decoder alone.

    A step draws from seeds of its own: stopped and gone on with from `content`, it comes to the same weights.
    """

    def __init__(
        self, config: MimiTraining, model: MimiModel, reader: BatchReader, teacher: Teacher | None = None
    ) -> None:
        """Takes a model on its device. Raises ConfigError where it cannot be trained as is asked."""
        _check_codebooks(config, model)
        device = model.device
        self.config = config
        self.reader = reader
        self.teacher = teacher
        model.requires_grad_(True)
        latent_dim = model.config.quantizer.output_dimension
        self.distillation = None if teacher is None else Distillation(latent_dim, teacher.dim).to(device)
        self.discriminator = Discriminator(config.discriminator).to(device)
        self.balancer = Balancer(config.losses.balanced).to(device)
        self.spectral = SpectralLoss(config.spectral, model.sample_rate).to(device)
        self.codebooks = CodebookTrainer(model.quantizer, config.codebooks)
        optimizer = torch.optim.AdamW(
            _groups(config, model, self.distillation), lr=config.learning_rate, betas=config.betas
        )
        self._judge_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(),
            lr=config.discriminator.learning_rate,
            betas=config.discriminator.betas,
            weight_decay=0.0,
        )
        others = {"discriminator": self.discriminator, "balancer": self.balancer}
        others |= {} if self.distillation is None else {"distillation": self.distillation}
        super().__init__(config, model, optimizer, **others)
        self._parts["discriminator_optimizer"] = self._judge_optimizer

    def train_step(self) -> dict[str, float]:
        """See `Trainer.train_step`."""
        self._prepare()
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + self.step) * 1009 + rank())
        metrics: defaultdict[str, float] = defaultdict(float)
        for part in range(self.config.accumulate):
            for name, value in self._learn_from(part, generator).items():
                metrics[name] += value / self.config.accumulate
        metrics |= self._move()
        self.step += 1
        return dict(metrics)

    def restore(self, content: dict[str, Any]) -> None:
        """See `Trainer.restore`. Raises CheckpointError for that of another model."""
        try:
            super().restore(content)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"a checkpoint of another training ({error})") from error
        refresh_codebooks(self.model)
        refresh_codebooks(self.average)

    @property
    def _codec_waits(self) -> bool:
        """Whether the discriminator learns alone."""
        return self.step < self.config.discriminator_head_start

    def _prepare(self) -> None:
        """Learning rates, empty gradients, and on the first step the first codebooks of a new codec."""
        self._optimizer.zero_grad(set_to_none=True)
        self._judge_optimizer.zero_grad(set_to_none=True)
        schedules = (self.config.schedule, self.config.discriminator_schedule)
        for optimizer, schedule in zip((self._optimizer, self._judge_optimizer), schedules, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = schedule.at(self.step)
        if self.step == 0 and not _are_initialized(self.model):
            self._make_codebooks()

    @torch.no_grad()
    def _make_codebooks(self) -> None:
        """k-means over the latents of the first batches."""
        pool: list[Tensor] = []
        wanted = _VECTORS_PER_CODE * self.model.cardinality
        while sum(len(latents) for latents in pool) < wanted:
            audio = self.reader.batch(len(pool)).audio.to(self.model.device)
            pool.append(self.model.encode_latent(audio[:, None], None, None).flatten(0, 1))
        generator = torch.Generator().manual_seed(self.config.seed)
        self.codebooks.initialise(torch.cat(pool), generator)

    def _learn_from(self, part: int, generator: torch.Generator) -> dict[str, float]:
        """Adds the gradients of one part of the step."""
        batch = self.reader.batch(self.step * self.config.accumulate + part)
        target = batch.audio.to(self.model.device)
        if self._codec_waits:
            with torch.no_grad():
                codes = self.model.quantizer.encode(self.model.encode_latent(target[:, None], None, None))
                output = self.model.decode_codes(codes, None, None)[:, 0]
            return {"discriminator": self._judge(output, target)[1].item()}
        output, plain = self._reconstruct(batch, target, generator)
        metrics: dict[str, Tensor] = {}
        real: list[Verdict] = []
        if self.config.losses.need_discriminator:
            real, metrics["discriminator"] = self._judge(output.detach(), target)
        balanced = self._output_losses(output, target, real)
        self._back_propagate(output, balanced, plain)
        return {name: value.item() for name, value in (metrics | balanced | plain).items()}

    def _reconstruct(
        self, batch: Batch, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The codec's output [B, T] for [B, T], and the losses that are not of the output."""
        model, weights = self.model, self.config.losses
        plain: dict[str, Tensor] = {}
        if self.config.parts == "decoder":
            with torch.no_grad():
                codes = model.quantizer.encode(model.encode_latent(target[:, None], None, None))
            latent = model.quantizer.decode(codes)
        else:
            with self._precision():
                latent = model.encode_latent(target[:, None], None, None)
            step = self.step * self.config.accumulate
            semantic, acoustic = self.codebooks.quantize_parts(latent.float(), step, generator)
            latent = semantic.latent + acoustic.latent
            if weights.commitment:
                plain["commitment"] = semantic.commitment + acoustic.commitment
            if self.distillation is not None and self.teacher is not None:
                targets = self.teacher.targets(batch, latent.shape[1]).to(model.device)
                plain["distillation"] = self.distillation(semantic.quantized, targets)
        with self._precision():
            output = model.decode_quantized(latent, None, None)[:, 0]
        return output.float(), plain

    def _judge(self, decoded: Tensor, target: Tensor) -> tuple[list[Verdict], Tensor]:
        """Adds the discriminator's gradients; its verdicts on [B, T] of recorded speech, and its loss."""
        with self._precision():
            real, wrong = self.discriminator(target), self.discriminator(decoded)
        loss = discriminator_loss(real, wrong)
        (loss / self.config.accumulate).backward()
        return real, loss.detach()

    def _output_losses(self, output: Tensor, target: Tensor, real: list[Verdict]) -> dict[str, Tensor]:
        """The losses in use of two signals [B, T], without their weights."""
        weights, losses = self.config.losses, dict[str, Tensor]()
        if weights.need_discriminator:
            with self._precision():
                decoded = self.discriminator(output)
            losses["adversarial"] = adversarial_loss(decoded)
            losses["feature"] = feature_loss(real, decoded)
        if weights.spectral:
            losses["spectral"] = self.spectral(output, target)
        if weights.waveform:
            losses["waveform"] = waveform_loss(output, target)
        return losses

    def _back_propagate(self, output: Tensor, balanced: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
        """Adds the codec's gradients."""
        share = 1 / self.config.accumulate
        gradient = self.balancer.gradient(balanced, output) * share
        weighted = [getattr(self.config.losses, name) * share * loss for name, loss in plain.items()]
        tensors = [output, *weighted]
        torch.autograd.backward(tensors, [gradient, *(torch.ones_like(one) for one in weighted)])

    def _move(self) -> dict[str, float]:
        """Changes the weights, unless a gradient is no number."""
        metrics: dict[str, float] = {}
        if not self._codec_waits and self._moved(self._optimizer, "norm", metrics):
            ema.update(self.average, self.model, self.config.average_decay, self.step)
            refresh_codebooks(self.average)
        if self.config.losses.need_discriminator:
            self._moved(self._judge_optimizer, "discriminator_norm", metrics)
        return metrics

    def _moved(self, optimizer: torch.optim.Optimizer, name: str, metrics: dict[str, float]) -> bool:
        """One optimizer's step, with the norm of its gradient put into `metrics`."""
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        metrics[name] = norm.item()
        if not bool(norm.isfinite()):
            return False
        optimizer.step()
        return True

    def _precision(self) -> AbstractContextManager[Any]:
        mixed = self.config.precision == "bfloat16"
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=mixed)


def _check_codebooks(config: MimiTraining, model: MimiModel) -> None:
    quantizer = model.config.quantizer
    if config.num_codebooks is not None:
        if not quantizer.n_q_semantic < config.num_codebooks <= quantizer.n_q:
            accepted = f"{quantizer.n_q_semantic + 1} to {quantizer.n_q}"
            raise ConfigError(f"num_codebooks={config.num_codebooks}; accepted for this codec: {accepted}")
        model.set_num_codebooks(config.num_codebooks)
    if quantizer.n_q <= quantizer.n_q_semantic:
        raise ConfigError("a codec without acoustic codebooks, of which it needs one or more to be trained")
    if config.parts == "decoder" and not _are_initialized(model):
        raise ConfigError("parts='decoder' needs a trained codec (`from`): this one has no codebooks yet")


def _are_initialized(model: MimiModel) -> bool:
    return float(model.quantizer.rvq_first.codebook(0).initialized) == 1


def _groups(
    config: MimiTraining, model: MimiModel, distillation: Distillation | None
) -> list[dict[str, Any]]:
    """Parameters with their weight decay, which only the transformers have."""
    trained = list(decoder_parameters(model) if config.parts == "decoder" else model.parameters())
    decayed = {id(parameter) for parameter in _transformer_parameters(model)}
    plain = [parameter for parameter in trained if id(parameter) not in decayed]
    plain += [] if distillation is None else list(distillation.parameters())
    return [
        {"params": plain, "weight_decay": 0.0},
        {
            "params": [parameter for parameter in trained if id(parameter) in decayed],
            "weight_decay": config.weight_decay,
        },
    ]


def _transformer_parameters(model: MimiModel) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if isinstance(module, ProjectedTransformer):
            yield from module.parameters()
