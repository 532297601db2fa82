"""The settings of a codec's training, as a TOML file gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from moshi_agent.errors import ConfigError
from moshi_agent.training.mimi.audio_data import DataConfig
from moshi_agent.training.mimi.codebooks import CodebookConfig
from moshi_agent.training.mimi.discriminator import DiscriminatorConfig
from moshi_agent.training.mimi.spectral import SpectralConfig
from moshi_agent.training.mimi.teacher import TeacherConfig
from moshi_agent.training.runs.lr_schedule import LRSchedule
from moshi_agent.training.runs.settings import named, require_range
from moshi_agent.training.runs.trainer import Training


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weighs the losses; 0 takes one away.

    The first four are balanced: each weight is that loss's share of the gradient. The defaults are those of
    Audiocraft, which Mimi began from; the final Mimi has `spectral` and `waveform` at 0 (arXiv:2410.00037,
    section 3.3.1). The last two are plain factors.
    """

    adversarial: float = 4.0
    feature: float = 4.0
    spectral: float = 2.0
    waveform: float = 0.1
    commitment: float = 0.25
    distillation: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            require_range(f"[losses] {name}", weight, 0)
        if not self.balanced:
            raise ConfigError("[losses]: one of adversarial, feature, spectral, waveform has to be above 0")

    @property
    def balanced(self) -> dict[str, float]:
        """Gives the weights of the output's losses that are in use."""
        names = ("adversarial", "feature", "spectral", "waveform")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def need_discriminator(self) -> bool:
        return bool(self.adversarial or self.feature)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Says when and on how much the codec is evaluated, and what is left to listen to."""

    every: int = 500  # steps
    pieces: int = 16
    samples: int = 4  # of the pieces, written as wav files

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("pieces", 1), ("samples", 0)):
            require_range(f"[evaluation] {name}", getattr(self, name), least)


@dataclass(frozen=True, kw_only=True)
class MimiTraining(Training):
    """Sets a codec's training. Betas, weight decay and average are the Moshi paper's, section 3.3.1.

    It has a learning rate of 8e-4 for 4 million steps from scratch, on 128 pieces of 150 frames each.
    """

    name: ClassVar[str] = "mimi"

    folder: Path  # of the run: log, checkpoint, samples, the trained codec
    data: DataConfig
    start: str | None = named("from", default=None)  # `tiny`, a folder, owner/name of a repository
    codec: Path | None = None  # a mimi_config.json, for a codec from scratch
    parts: Literal["all", "decoder"] = "all"  # with "decoder" the codes stay what they are
    num_codebooks: int | None = None  # in use while training; None is all that the codec has

    steps: int = 10_000
    batch: int = 16  # pieces per process, and per part of a step
    accumulate: int = 1  # parts of a step
    frames: int = 25  # of a piece
    learning_rate: float = 3e-4
    warm_up: int = 100
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.05  # of the transformers
    average_decay: float = 0.99
    clip: float = 10.0  # of the gradient's norm
    precision: Literal["float32", "bfloat16"] = "float32"  # of convolutions and transformers
    seed: int = 0
    checkpoint_every: int = 500  # steps
    keep_checkpoints: int = 3  # of the newest; 0 keeps all
    discriminator_head_start: int = 0  # steps at the beginning in which the discriminator alone learns

    losses: LossWeights = field(default_factory=LossWeights)
    codebooks: CodebookConfig = field(default_factory=lambda: CodebookConfig(dropout=0.5, unquantized=0.5))
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if (self.start is None) == (self.codec is None):
            raise ConfigError("one of `from` (a checkpoint) and `codec` (a mimi_config.json) has to be given")
        for name in ("steps", "batch", "accumulate", "frames", "checkpoint_every"):
            require_range(name, getattr(self, name), 1)
        for name in (
            "learning_rate",
            "warm_up",
            "weight_decay",
            "seed",
            "discriminator_head_start",
            "keep_checkpoints",
        ):
            require_range(name, getattr(self, name), 0)
        require_range("average_decay", self.average_decay, 0, 1)
        require_range("clip", self.clip, 1e-9)
        if self.parts == "decoder" and self.losses.distillation:
            raise ConfigError(
                "[losses] distillation trains codebooks, which parts='decoder' leaves as they are"
            )
        if self.discriminator_head_start and not self.losses.need_discriminator:
            raise ConfigError("discriminator_head_start: no loss in use needs the discriminator")

    @property
    def schedule(self) -> LRSchedule:
        """See `Training.schedule`."""
        return LRSchedule(steps=self.steps, learning_rate=self.learning_rate, warm_up=self.warm_up)

    @property
    def discriminator_schedule(self) -> LRSchedule:
        """Gives the discriminator's learning rate of each step; it begins at once."""
        return LRSchedule(steps=self.steps, learning_rate=self.discriminator.learning_rate, warm_up=0)
