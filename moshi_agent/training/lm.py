"""Training of the language model on encoded calls."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from moshi_agent.config import MoshiConfig
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.linear import Linear
from moshi_agent.training.average import follow
from moshi_agent.training.hearing import give_ears
from moshi_agent.training.lm_data import LMData
from moshi_agent.training.lm_losses import Batch, LMLoss, LMLossConfig
from moshi_agent.training.loop import Run
from moshi_agent.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class LMTraining:
    """How the language model is trained."""

    steps: int = 2600
    batch: int = 8
    frames: int = 250  # per crop, well over the context
    # The other steps read questions and how their answers begin: that is what takes longest to learn.
    long_every: int = 4
    question_batch: int = 44
    question_frames: int = 48
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    hearing_share: float = 0.1  # of the learning rate, for the embeddings of the caller's codes
    clip: float = 1.0
    average_decay: float = 0.995
    bfloat16: bool = True  # products in bfloat16
    seed: int = 6
    losses: LMLossConfig = field(default_factory=LMLossConfig)

    @property
    def schedule(self) -> Schedule:
        return Schedule(steps=self.steps, learning_rate=self.learning_rate)

    @property
    def run(self) -> Run:
        return Run(name="lm", steps=self.steps)


class LMTrainer:
    """The model, its running average and everything else that a step changes."""

    def __init__(
        self, model: MoshiConfig, config: LMTraining, data: LMData, codec: MimiModel | None = None
    ) -> None:
        """`codec` encoded `data`; with it the caller's codes have a meaning from the start."""
        torch.manual_seed(config.seed)
        self.config = config
        self.data = data
        self.model = LMModel(model)
        self.model.init_weights()
        if codec is not None:
            give_ears(self.model, codec, data.heard())
        self.asked_head = Linear(model.temporal.dim, 1 + int(data.asked.max()))
        self.average = copy.deepcopy(self.model)
        self.parameters = [*self.model.parameters(), *self.asked_head.parameters()]
        quiet = torch.from_numpy(data.quiet.astype(np.int64))
        self.loss = LMLoss(self.model, self.asked_head, quiet, config.losses)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, self.asked_head, config),
            lr=config.learning_rate,
            betas=config.betas,
        )
        self.step = 0

    def train_step(self) -> dict[str, float]:
        """One step; the figures of its losses."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = config.schedule.at(self.step) * group["share"]
        batch = self.draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            terms = self.loss(batch, generator)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimizer.step()
        follow(self.average, self.model, config.average_decay, self.step)
        self.step += 1
        return {"loss": total.item(), **{k: v.item() for k, v in terms.items()}, "norm": float(norm)}

    def draw(self) -> Batch:
        """The crops of the next step."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.step])
        if self.step % config.long_every:
            crops = self.data.question_crops(rng, config.question_batch, config.question_frames)
        else:
            crops = self.data.crops(rng, config.batch, config.frames)
        return Batch(*(torch.from_numpy(part) for part in crops))

    def content(self) -> dict[str, Any]:
        """Everything that a step depends on."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "asked_head": self.asked_head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Takes what `content` gave."""
        self.step = content["step"]
        self.model.load_state_dict(content["model"])
        self.average.load_state_dict(content["average"])
        self.asked_head.load_state_dict(content["asked_head"])
        self.optimizer.load_state_dict(content["optimizer"])


def _parameter_groups(model: LMModel, head: Linear, config: LMTraining) -> list[dict[str, object]]:
    """Matrices decay; tables of embeddings and norms do not."""
    hearing = [parameter for table in model.emb[model.dep_q :] for parameter in table.parameters()]
    ears = {id(parameter) for parameter in hearing}
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decaying, others = list[nn.Parameter](), list[nn.Parameter]()
    for parameter in [*model.parameters(), *head.parameters()]:
        if id(parameter) not in ears:
            is_matrix = parameter.dim() == 2 and id(parameter) not in tables
            (decaying if is_matrix else others).append(parameter)
    return [
        {"params": decaying, "weight_decay": config.weight_decay, "share": 1.0},
        {"params": others, "weight_decay": 0.0, "share": 1.0},
        {"params": hearing, "weight_decay": 0.0, "share": config.hearing_share},
    ]
