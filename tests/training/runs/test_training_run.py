"""The loop of every training does what is due, and goes on from its newest checkpoint as if never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moshi_agent.training.runs.run_checkpoints import RunCheckpoints
from moshi_agent.training.runs.trainer import Trainer
from moshi_agent.training.runs.training_run import Periodic, TrainingRun


class Doubling(Trainer):
    """Doubles a number and adds the step's own, so that a step left out or made twice shows."""

    def __init__(self, ends_at: int | None = None) -> None:
        super().__init__()
        self.value = torch.ones(1, dtype=torch.float64)
        self._ends_at = ends_at

    def train_step(self) -> dict[str, float]:
        if self.step == self._ends_at:
            raise KeyboardInterrupt
        self.value = self.value * 2 + self.step
        self.step += 1
        return {"value": self.value.item(), "norm": float("nan") if self.step == 2 else 1.0}

    def content(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value}

    def restore(self, content: dict[str, Any]) -> None:
        self.step, self.value = content["step"], content["value"]


def _run(trainer: Trainer, folder: Path, last: int, every: int = 3, log_every: int = 1) -> Path | None:
    checkpoints = RunCheckpoints(folder, keep=1)
    state = checkpoints.newest_state()
    run = TrainingRun(trainer, checkpoints, name="run", state=state, lasting_settings={"batch": 2})
    try:
        return run.train(last, [Periodic(every, run.save)], log_every=log_every)
    finally:
        run.close()


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Its metrics, too: those of the steps after the last checkpoint are there once."""
    whole = Doubling()
    _run(whole, tmp_path / "whole", 8)
    with pytest.raises(KeyboardInterrupt):
        _run(Doubling(ends_at=5), tmp_path / "parts", 8)
    assert [line["step"] for line in _lines(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    again = Doubling()
    newest = _run(again, tmp_path / "parts", 8)
    assert newest is not None and newest.name == "checkpoint_000008"
    assert torch.equal(again.value, whole.value)
    assert _lines(tmp_path / "parts") == _lines(tmp_path / "whole")


def test_what_is_due_is_done_in_order_and_after_the_last_step(tmp_path: Path) -> None:
    done: list[tuple[str, int]] = []
    trainer = Doubling()
    run = TrainingRun(trainer, RunCheckpoints(tmp_path, keep=1), name="run", state=None)
    due = [
        Periodic(2, lambda: done.append(("evaluate", trainer.step))),
        Periodic(4, lambda: done.append(("save", trainer.step))),
        Periodic(0, lambda: done.append(("end", trainer.step))),
    ]
    assert run.train(5, due, log_every=3) is None
    run.close()
    assert done == [("evaluate", 2), ("evaluate", 4), ("save", 4), ("evaluate", 5), ("save", 5), ("end", 5)]
    assert [line["step"] for line in _lines(tmp_path)] == [3, 5]


def test_a_finished_run_does_nothing(tmp_path: Path) -> None:
    newest = _run(Doubling(), tmp_path, 4)
    assert newest is not None
    written = (newest / "training.pt").stat().st_mtime_ns
    assert _run(Doubling(ends_at=4), tmp_path, 4) == newest
    assert (newest / "training.pt").stat().st_mtime_ns == written


def test_a_checkpoint_keeps_the_lasting_settings_and_what_others_load(tmp_path: Path) -> None:
    def export(folder: Path, content: dict[str, Any]) -> None:
        (folder / "step").write_text(str(content["step"]))

    checkpoints = RunCheckpoints(tmp_path, keep=1)
    run = TrainingRun(Doubling(), checkpoints, name="run", state=None, lasting_settings={"batch": 2})
    run.save(export)
    run.close()
    state, newest = checkpoints.newest_state(), checkpoints.newest()
    assert state is not None and state["settings"] == {"batch": 2}
    assert newest is not None and (newest / "consolidated" / "step").read_text() == "0"


def test_a_value_that_is_no_number_is_left_out_of_the_metrics(tmp_path: Path) -> None:
    """The lines stay JSON, which has no word for it."""
    _run(Doubling(), tmp_path, 3)
    assert ["norm" in line for line in _lines(tmp_path)] == [True, False, True]
