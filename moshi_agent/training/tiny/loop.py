"""The loop that every training shares: progress, a log file, and checkpoints to go on from."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from moshi_agent.training.runs.trainer import Trainer

CHECKPOINT_SECONDS = 300.0
LOG_EVERY = 50


def run_training(trainer: Trainer[Any], folder: Path, *, until: int | None = None) -> None:
    """Trains to the last step, from the checkpoint in `folder` where there is one.

    Args:
        until: stops after this step instead; a later call goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, steps = trainer.training.name, trainer.training.steps if until is None else until
    checkpoint = folder / f"{name}_checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(torch.load(checkpoint, weights_only=True))
    saved, log = time.monotonic(), StepLog(folder / f"{name}.log", LOG_EVERY)
    with tqdm(total=steps, initial=trainer.step, desc=name, unit="step") as bar:
        while trainer.step < steps:
            metrics = trainer.train_step()
            log.add(trainer.step, metrics)
            bar.update()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(trainer, checkpoint)
                saved = time.monotonic()
    _save(trainer, checkpoint)


def _save(trainer: Trainer[Any], path: Path) -> None:
    """The file is whole or the old one."""
    partial = path.with_suffix(".part")
    torch.save(trainer.content(), partial)
    os.replace(partial, path)


class StepLog:
    """Means of the metrics of `every` steps, a line each in a file."""

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self.rows: list[dict[str, float]] = []
        self.started = time.monotonic()

    def add(self, steps: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of the last of `steps` steps."""
        self.rows.append(metrics)
        if steps % self.every:
            return
        means = {name: sum(row[name] for row in self.rows) / len(self.rows) for name in metrics}
        seconds = (time.monotonic() - self.started) / len(self.rows)
        line = " ".join(f"{name}={value:.4f}" for name, value in means.items())
        with self.path.open("a") as file:
            file.write(f"step={steps} {line} s/step={seconds:.3f}\n")
        self.rows = []
        self.started = time.monotonic()
