"""Figures of a training, in a file that one can follow."""

from __future__ import annotations

import time
from pathlib import Path


class StepLog:
    """Means of the figures of `every` steps, a line each in a file."""

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self.rows: list[dict[str, float]] = []
        self.started = time.monotonic()

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Takes the figures of a step that has just been made."""
        self.rows.append(figures)
        if (step + 1) % self.every:
            return
        means = {name: sum(row.get(name, 0.0) for row in self.rows) / len(self.rows) for name in figures}
        seconds = (time.monotonic() - self.started) / len(self.rows)
        line = " ".join(f"{name}={value:.4f}" for name, value in means.items())
        with self.path.open("a") as file:
            file.write(f"step={step + 1} {line} s/step={seconds:.3f}\n")
        self.rows = []
        self.started = time.monotonic()
