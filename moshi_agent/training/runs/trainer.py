"""What every training is: its settings, and a trainer that makes its steps.

Every step draws from seeds of its own, and `content` holds everything that a step changes: a training that
was stopped goes on to the very same weights.
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
    """The settings that all trainings have."""

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
        """The learning rate of each step."""
        return LRSchedule(steps=self.steps, learning_rate=self.learning_rate)


class Trainer(ABC, Generic[Model]):
    """A model in training, its running average, and the number of steps made."""

    def __init__(
        self, training: Training, model: Model, optimizer: torch.optim.Optimizer, **others: nn.Module
    ) -> None:
        """`others` are trained as well, and needed in training only."""
        self.training = training
        self.step = 0
        self.model = model
        self.average = copy.deepcopy(model)
        self._optimizer = optimizer
        self._parts = {"model": model, "average": self.average, "optimizer": optimizer, **others}

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """One step; its metrics."""

    def content(self) -> dict[str, Any]:
        """Everything that a step depends on."""
        return {"step": self.step, **{name: part.state_dict() for name, part in self._parts.items()}}

    def restore(self, content: dict[str, Any]) -> None:
        """Takes what `content` gave."""
        self.step = content["step"]
        for name, part in self._parts.items():
            part.load_state_dict(content[name])


class LossTrainer(Trainer[Model]):
    """A trainer whose step makes a sum of losses smaller.

    A group of the optimizer's parameters may have a "share" of the learning rate.
    """

    @abstractmethod
    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted terms of this step's loss, which is their sum, on data drawn with `rng`."""

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
