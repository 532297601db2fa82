"""Trains one stage of the recipe, in the loop that all trainings share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moshi_agent.training.runs.run_checkpoints import RunCheckpoints
from moshi_agent.training.runs.trainer import AveragedTrainer
from moshi_agent.training.runs.training_run import Periodic, TrainingRun

CHECKPOINT_STEPS = 200  # a few minutes


def run_training(trainer: AveragedTrainer[Any], folder: Path, *, until: int | None = None) -> None:
    """Trains a stage to its last step, from the newest checkpoint in the stage's folder where there is one.

    Args:
        folder: the recipe's; the stage's folder in it has the stage's name.
        until: stops after this step instead; a later call goes on.

    Raises:
        CheckpointError: the newest checkpoint is damaged.
        OutputError: something cannot be written; the checkpoint before it stays.
    """
    name, last = trainer.training.name, trainer.training.steps if until is None else until
    checkpoints = RunCheckpoints(folder / name, keep=1)
    state = checkpoints.newest_state() or _older_state(folder / f"{name}_checkpoint.pt")
    run = TrainingRun(trainer, checkpoints, name=name, state=state)
    try:
        run.train(last, [Periodic(CHECKPOINT_STEPS, run.save)])
    finally:
        run.close()


def _older_state(file: Path) -> dict[str, Any] | None:
    """Reads the single file that a stage kept before it had a folder; a stage begun then goes on, too."""
    return torch.load(file, map_location="cpu", weights_only=True) if file.exists() else None
