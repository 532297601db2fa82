"""The loop that every training shares: progress, a log file, and checkpoints to go on from.

Every step draws from seeds of its own and a checkpoint holds everything that a step changes, so a run
that was stopped goes on to the very same weights.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm


class Trainer(Protocol):
    """Something that is trained step by step."""

    step: int

    def train_step(self) -> dict[str, float]:
        """Makes one step; its figures."""
        ...

    def content(self) -> dict[str, Any]:
        """Everything that a step depends on."""
        ...

    def restore(self, content: dict[str, Any]) -> None:
        """Takes what `content` gave."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """How long a training goes on and what it leaves in its folder."""

    name: str
    steps: int
    checkpoint_seconds: float = 300.0
    log_every: int = 50


def run_training(trainer: Trainer, run: Run, folder: Path) -> None:
    """Trains to the last step, from the checkpoint in `folder` where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{run.name}_checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(torch.load(checkpoint, weights_only=True))
    saved, log = time.monotonic(), StepLog(folder / f"{run.name}.log", run.log_every)
    with tqdm(total=run.steps, initial=trainer.step, desc=run.name, unit="step") as bar:
        while trainer.step < run.steps:
            figures = trainer.train_step()
            log.add(trainer.step, figures)
            bar.update()
            if time.monotonic() - saved > run.checkpoint_seconds:
                _save(trainer, checkpoint)
                saved = time.monotonic()
    _save(trainer, checkpoint)


def _save(trainer: Trainer, path: Path) -> None:
    """The file is whole or the old one."""
    partial = path.with_suffix(".part")
    torch.save(trainer.content(), partial)
    os.replace(partial, path)


class StepLog:
    """Means of the figures of `every` steps, a line each in a file."""

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self.rows: list[dict[str, float]] = []
        self.started = time.monotonic()

    def add(self, steps: int, figures: dict[str, float]) -> None:
        """Takes the figures of the last of `steps` steps."""
        self.rows.append(figures)
        if steps % self.every:
            return
        means = {name: sum(row[name] for row in self.rows) / len(self.rows) for name in figures}
        seconds = (time.monotonic() - self.started) / len(self.rows)
        line = " ".join(f"{name}={value:.4f}" for name, value in means.items())
        with self.path.open("a") as file:
            file.write(f"step={steps} {line} s/step={seconds:.3f}\n")
        self.rows = []
        self.started = time.monotonic()
