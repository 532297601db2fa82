"""Training of the language model on encoded calls.

As in the codec's training, every step draws from seeds of its own: a run that was stopped goes on from
its last checkpoint to the very same weights.
"""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from moshi_agent.config import MoshiConfig
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.linear import Linear
from moshi_agent.training.lm_data import LMData
from moshi_agent.training.lm_losses import Batch, LMLoss, LMLossConfig
from moshi_agent.training.step_log import StepLog


@dataclass(frozen=True, kw_only=True)
class LMTraining:
    """How the language model is trained."""

    steps: int = 3000
    batch: int = 8
    frames: int = 250  # per crop, well over the context
    learning_rate: float = 2e-3
    final_share: float = 0.02  # of the learning rate, at the last step
    warm_up: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 1.0
    average_decay: float = 0.995
    bfloat16: bool = False  # products in bfloat16
    seed: int = 6
    checkpoint_seconds: float = 300.0
    log_every: int = 50
    losses: LMLossConfig = field(default_factory=LMLossConfig)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to `final_share`."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(self.steps - self.warm_up, 1)
        share = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * share


class LMTrainer:
    """The model, its running average and everything else that a step changes."""

    def __init__(self, model: MoshiConfig, config: LMTraining, data: LMData) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.data = data
        self.model = LMModel(model)
        self.model.init_weights()
        self.asked_head = Linear(model.temporal.dim, 1 + int(data.asked.max()))
        self.average = copy.deepcopy(self.model)
        quiet = torch.from_numpy(data.quiet.astype(np.int64))
        self.loss = LMLoss(self.model, self.asked_head, quiet, config.losses)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, self.asked_head, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
        )
        self.step = 0

    def train(self, folder: Path) -> LMModel:
        """Trains to the last step, from the checkpoint in `folder` where there is one; the averaged model."""
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "lm_checkpoint.pt"
        if checkpoint.exists():
            self.load(checkpoint)
        saved, log = time.monotonic(), StepLog(folder / "lm.log", self.config.log_every)
        with tqdm(total=self.config.steps, initial=self.step, desc="language model", unit="step") as bar:
            while self.step < self.config.steps:
                log.add(self.step, self.train_step())
                bar.update()
                if time.monotonic() - saved > self.config.checkpoint_seconds:
                    self.save(checkpoint)
                    saved = time.monotonic()
        self.save(checkpoint)
        return self.average

    def train_step(self) -> dict[str, float]:
        """One step; the figures of its losses."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(self.step)
        batch = self._batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            terms = self.loss(batch, generator)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_([*self.model.parameters(), *self.asked_head.parameters()], config.clip)
        self.optimizer.step()
        self._average()
        self.step += 1
        return {"loss": total.item(), **{k: v.item() for k, v in terms.items()}, "norm": float(norm)}

    def _batch(self) -> Batch:
        config = self.config
        rng = np.random.default_rng([config.seed, self.step])
        codes, asked = self.data.crops(rng, config.batch, config.frames)
        return Batch(torch.from_numpy(codes), torch.from_numpy(asked))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        ours, theirs = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore[reportPrivateUsage]

    def save(self, path: Path) -> None:
        """Writes everything that a step depends on; the file is whole or the old one."""
        content = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "asked_head": self.asked_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".part")
        torch.save(content, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Goes on where `save` was called."""
        content = torch.load(path, weights_only=True)
        self.step = content["step"]
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.asked_head.load_state_dict(content["asked_head"])
        self.optimizer.load_state_dict(content["optimizer"])


def _parameter_groups(model: LMModel, head: Linear, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; tables of embeddings and norms do not."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decaying, others = list[nn.Parameter](), list[nn.Parameter]()
    for parameter in [*model.parameters(), *head.parameters()]:
        is_matrix = parameter.dim() == 2 and id(parameter) not in tables
        (decaying if is_matrix else others).append(parameter)
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
