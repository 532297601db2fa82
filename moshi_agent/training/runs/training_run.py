"""The one loop of every training: `train mimi`, `train lm`, and each stage of `train tiny`.

A run keeps everything in one folder: checkpoints, metrics and sounds. What is due after a step is done before
the next one begins. The process may be killed at any moment: the next run of the same folder goes on from the
newest checkpoint, takes back the metrics of the steps after it, and comes to the very same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from moshi_agent.checkpoint.write import write_json
from moshi_agent.training.runs.distributed import rank, wait_for_all
from moshi_agent.training.runs.run_checkpoints import RunCheckpoints
from moshi_agent.training.runs.run_metrics import RunMetrics
from moshi_agent.training.runs.settings import as_values
from moshi_agent.training.runs.trainer import Trainer

# Writes what others load into a folder, from what the run goes on from.
Export = Callable[[Path, dict[str, Any]], None]


@dataclass(frozen=True)
class Periodic:
    """Names something to do after every `every` steps and after the last one; 0 is after the last alone."""

    every: int
    do: Callable[[], None]


class TrainingRun:
    """Makes a trainer's steps, and writes what they lead to into the run's folder.

    Several processes may train together: all of them make every call, and the first one alone writes.

    Args:
        name: of the progress bar.
        state: what the newest checkpoint holds, which the trainer takes; None begins at the first step.
        lasting_settings: those that every step depends on; each checkpoint keeps them as `settings`.

    Attributes:
        metrics: on the first process alone.
    """

    def __init__(
        self,
        trainer: Trainer,
        checkpoints: RunCheckpoints,
        *,
        name: str,
        state: dict[str, Any] | None,
        lasting_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._name = name
        self._settings = {} if lasting_settings is None else {"settings": dict(lasting_settings)}
        if state is not None:
            trainer.restore(state)
        self.metrics = RunMetrics(checkpoints.run_dir, trainer.step) if rank() == 0 else None

    def train(self, last: int, after: Sequence[Periodic], *, log_every: int = 1) -> Path | None:
        """Makes the steps up to `last`, and does what is due after each, in the order given.

        Returns:
            The newest checkpoint; None where none is written.
        """
        trainer = self._trainer
        hidden = True if rank() else None  # None shows it on a terminal only
        with tqdm(total=last, initial=trainer.step, desc=self._name, unit="step", disable=hidden) as bar:
            while trainer.step < last:
                metrics = trainer.train_step()
                bar.set_postfix({name: f"{value:.3g}" for name, value in metrics.items()}, refresh=False)
                bar.update()
                if _is_due(log_every, trainer.step, last):
                    self.add_metrics("train", metrics)
                for periodic in after:
                    if _is_due(periodic.every, trainer.step, last):
                        periodic.do()
        return self._checkpoints.newest()

    def add_metrics(self, group: str, metrics: Mapping[str, float]) -> None:
        """Writes metrics of one kind, such as `eval`, after this step. Raises OutputError."""
        if self.metrics is not None:
            self.metrics.add(self._trainer.step, group, metrics)

    def save(self, export: Export | None = None) -> None:
        """Writes a checkpoint, with what `export` writes for others. Raises OutputError."""
        content = {**self._trainer.content(), **self._settings}
        if rank() == 0:
            write: Callable[[Path], None] | None = (
                None if export is None else lambda folder: export(folder, content)
            )
            self._checkpoints.save(self._trainer.step, content, write)
        wait_for_all()

    def write_settings(self, settings: Any) -> None:
        """Writes all settings, a dataclass, as `settings.json` for people. Raises OutputError."""
        if self.metrics is not None:
            write_json(self._checkpoints.run_dir / "settings.json", as_values(settings))

    def close(self) -> None:
        """Writes what waits. Raises OutputError."""
        if self.metrics is not None:
            self.metrics.close()


def _is_due(every: int, step: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
