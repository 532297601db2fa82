"""Makes the steps of one fine-tuning.

All that is random in a step follows from the seed and the step's number, and `content` has everything that a
step changes: a run that was stopped goes on to the very same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import OneCycleLR

from moshi_agent.training.finetune import sharding
from moshi_agent.training.finetune.config import FineTuneConfig
from moshi_agent.training.finetune.crops import CropSource
from moshi_agent.training.finetune.losses import Objective
from moshi_agent.training.runs.distributed import (
    average_over_processes,
    process_count,
    rank,
    sum_over_processes,
)
from moshi_agent.training.runs.trainer import Trainer
from moshi_agent.training.stereo.dataset import Batch

Metrics = dict[str, float]


class FineTuner(Trainer):
    """Fine-tunes a language model, or this process's part of it, on crops of conversations."""

    def __init__(self, objective: Objective, config: FineTuneConfig, crops: CropSource) -> None:
        """Takes an `objective` that is on its device already, or this process's part of it."""
        super().__init__()
        self.objective = objective
        self.config = config
        self.crops = crops
        self._weights = [weight for weight in objective.parameters() if weight.requires_grad]
        optim = config.optim
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )
        self._schedule = OneCycleLR(
            self._optimizer, optim.lr, total_steps=config.max_steps, pct_start=optim.pct_start
        )

    @property
    def trained(self) -> int:
        """Counts the numbers that are trained."""
        return sum(weight.numel() for weight in self._weights)

    def train_step(self) -> Metrics:
        """Makes one step. Returns losses, the gradient's norm before clipping, and the learning rate."""
        config, count = self.config, self.config.num_microbatches
        self.objective.train()
        losses: list[Tensor] = []
        for micro in range(count):
            number = self.step * count + micro
            batch = self.crops.batch(number, config.batch_size, rank=rank(), ranks=process_count())
            terms = self.objective(batch, self._generator(number * process_count() + rank()))
            (terms["text"] + terms["audio"]).div(count).backward()
            losses.append(torch.stack([terms["text"].detach(), terms["audio"].detach()]))
        norm = _whole(nn.utils.clip_grad_norm_(self._weights, config.max_norm))
        learning_rate = float(self._schedule.get_last_lr()[0])
        if bool(norm.isfinite()):  # or the weights would be no numbers for good
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step < config.max_steps:
            self._schedule.step()
        text, audio = average_over_processes(torch.stack(losses).mean(0)).tolist()
        return {"loss": text + audio, "text": text, "audio": audio, "norm": norm.item(), "lr": learning_rate}

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> Metrics:
        """Computes the mean losses over the batches, which every process has and shares with the others."""
        self.objective.eval()
        ranks, device = process_count(), self.objective.lm.device
        sums = torch.zeros(2, device=device)
        for first in range(0, len(batches), ranks):
            number = first + rank()
            # All processes make as many passes: a sharded model waits for them.
            terms = self.objective(batches[min(number, len(batches) - 1)])
            sums += (number < len(batches)) * torch.stack([terms["text"], terms["audio"]])
        text, audio = (sum_over_processes(sums) / len(batches)).tolist()
        return {"loss": text + audio, "text": text, "audio": audio}

    def content(self) -> dict[str, Any]:
        """See `Trainer.content`. The first process gets the whole."""
        return {
            "step": self.step,
            "weights": sharding.trained_weights(self.objective),
            "optimizer": sharding.optimizer_state(self.objective, self._optimizer),
            "schedule": self._schedule.state_dict(),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """See `Trainer.restore`. Only the first process need have the tensors."""
        self.step = content["step"]
        sharding.set_trained_weights(self.objective, content["weights"])
        sharding.set_optimizer_state(self.objective, self._optimizer, content["optimizer"])
        self._schedule.load_state_dict(content["schedule"])


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
