"""Training of the language model on encoded calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from moshi_agent.config import MoshiConfig
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.linear import Linear
from moshi_agent.training.runs.precision import faster_in_bfloat16
from moshi_agent.training.runs.trainer import LossTrainer, Training
from moshi_agent.training.tiny.audio_embeddings import init_audio_embeddings
from moshi_agent.training.tiny.lm_data import LMData
from moshi_agent.training.tiny.lm_losses import Batch, LMLoss, LMLossConfig

CropKind = Literal["long", "question", "told", "interruption"]


@dataclass(frozen=True, kw_only=True)
class LMTraining(Training):
    """How the language model is trained."""

    name: ClassVar[str] = "lm"
    steps: int = 3200
    batch: int = 8
    frames: int = 250  # well over the context
    # What the steps read, in turn: calls as they are, and more of what takes longest to learn: to tell
    # questions apart, to speak what is not known by heart, and to stop.
    crops: tuple[CropKind, ...] = (
        *("long", "question", "told", "interruption"),
        *("long", "question", "told", "told"),
    )
    short_batch: int = 44  # of all crops but the long ones
    short_frames: int = 48
    pace_share: float = 0.08  # of a question's frames that are left out or come twice
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    hearing_share: float = 0.1  # of the learning rate, for the embeddings of the caller's codes
    bfloat16: bool | None = None  # products in bfloat16; None where this processor is faster at them
    seed: int = 6
    losses: LMLossConfig = field(default_factory=LMLossConfig)


def new_lm(config: MoshiConfig, data: LMData, codec: MimiModel, seed: int) -> LMModel:
    """A model to start from, in which the codes that `codec` made of the callers in `data` have a meaning."""
    torch.manual_seed(seed)
    model = LMModel(config)
    model.add_references(ahead=True)
    model.init_weights()
    init_audio_embeddings(model, codec, data.heard())
    return model


class LMTrainer(LossTrainer[LMModel]):
    """Trains `model` from what it is: see `new_lm` for one that knows nothing."""

    def __init__(self, model: LMModel, config: LMTraining, data: LMData) -> None:
        torch.manual_seed(config.seed)
        model.train().requires_grad_(True)  # one that was loaded for use is not
        asked_head = Linear(model.config.temporal.dim, 1 + int(data.asked.max()))
        groups = _parameter_groups(model, asked_head, config)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
        super().__init__(config, model, optimizer, asked_head=asked_head)
        self.config = config
        self.data = data
        self.bfloat16 = faster_in_bfloat16() if config.bfloat16 is None else config.bfloat16
        quiet = torch.from_numpy(data.quiet.astype(np.int64))
        self.loss = LMLoss(model, asked_head, quiet, config.losses)

    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Trainer.losses`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return self.loss(self.draw(rng), generator)

    def draw(self, rng: np.random.Generator) -> Batch:
        """The crops of the next step."""
        config, data = self.config, self.data
        batch, frames = config.short_batch, config.short_frames
        kind = config.crops[self.step % len(config.crops)]
        if kind == "told" and len(data.beginnings):
            crops = data.told_crops(rng, batch, frames)
        elif kind == "interruption" and len(data.interruptions):
            crops = data.interruption_crops(rng, batch, frames)
        elif kind == "question":
            crops = data.question_crops(rng, batch, frames, pace_share=config.pace_share)
        else:
            crops = data.crops(rng, config.batch, config.frames)
        return Batch(*(torch.from_numpy(part) for part in crops))


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
