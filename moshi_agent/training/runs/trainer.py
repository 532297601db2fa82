"""A trainer makes the steps of one training: Mimi's, a language model's, or a stage of the tiny recipe.

Every step draws from seeds of its own, and `content` holds everything that a step changes. So a training that
was stopped goes on to the very same weights. `TrainingRun` calls the steps.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from moshi_agent.training.runs import ema
from moshi_agent.training.runs.lr_schedule import LRSchedule

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Holds what Mimi's training and the stages of the tiny recipe are set by.

    Fine-tuning has the names of moshi-finetune instead, see `FineTuneConfig`.
    """

    name: ClassVar[str]  # of its files
    steps: int
    batch: int
    frames: int  # per crop
    learning_rate: float
    seed: int
    average_decay: float = 0.995
    clip: float = 1.0  # of the gradient's norm

    @property
    def schedule(self) -> LRSchedule:
        """Gives the learning rate of each step."""
        return LRSchedule(steps=self.steps, learning_rate=self.learning_rate)


class Trainer(ABC):
    """Makes the steps of one training, and counts them in `step`."""

    def __init__(self) -> None:
        self.step = 0

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """Makes one step, and returns its metrics."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Returns everything that a step depends on. The processes that train together call it together."""

    @abstractmethod
    def restore(self, content: dict[str, Any]) -> None:
        """Takes what `content` returned: the next step is the one that would have followed."""


class AveragedTrainer(Trainer, Generic[Model]):
    """Trains a model and keeps a running average of its weights, which is what others get."""

    def __init__(
        self, training: Training, model: Model, optimizer: torch.optim.Optimizer, **others: nn.Module
    ) -> None:
        """Takes the model, and in `others` what is trained beside it and needed in training only."""
        super().__init__()
        self.training = training
        self.model = model
        self.average = copy.deepcopy(model)
        self._optimizer = optimizer
        self._parts = {"model": model, "average": self.average, "optimizer": optimizer, **others}

    def content(self) -> dict[str, Any]:
        """See `Trainer.content`."""
        return {"step": self.step, **{name: part.state_dict() for name, part in self._parts.items()}}

    def restore(self, content: dict[str, Any]) -> None:
        """See `Trainer.restore`."""
        self.step = content["step"]
        for name, part in self._parts.items():
            part.load_state_dict(content[name])


class LossTrainer(AveragedTrainer[Model]):
    """Makes a sum of losses smaller with every step.

    A group of the optimizer's parameters may have a "share" of the learning rate.
    """

    @abstractmethod
    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        """Computes the weighted terms of this step's loss, which is their sum, on data drawn with `rng`."""

    def train_step(self) -> dict[str, float]:
        """See `Trainer.train_step`."""
        training, groups = self.training, self._optimizer.param_groups
        rng = np.random.default_rng([training.seed, self.step])
        generator = torch.Generator().manual_seed(training.seed * 1_000_003 + self.step)
        for group in groups:
            group["lr"] = training.schedule.at(self.step) * group.get("share", 1.0)
        terms = self.losses(rng, generator)
        total = torch.stack(list(terms.values())).sum()
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], training.clip)
        self._optimizer.step()
        ema.update(self.average, self.model, training.average_decay, self.step)
        self.step += 1
        return {"loss": total.item(), **{k: v.item() for k, v in terms.items()}, "norm": float(norm)}
