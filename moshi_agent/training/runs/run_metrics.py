"""The metrics of a run, for people: TensorBoard, and a line of JSON for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from moshi_agent.outputs import naming, whole_file


class RunMetrics:
    """Writes `metrics.jsonl` and `tensorboard/` into a run's folder.

    Args:
        step: that the run goes on from; what was written of later ones is taken back.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self._path = run_dir / "metrics.jsonl"
        self._folder = run_dir / "tensorboard"
        with naming(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            self._take_back(step)
            self._board = SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)

    def add(self, step: int, group: str, metrics: Mapping[str, float]) -> None:
        """Metrics of one kind, such as `train`, after so many steps. Raises OutputError."""
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": group, **metrics}) + "\n")
        with naming(self._folder):
            for name, value in metrics.items():
                self._board.add_scalar(f"{group}/{name}", value, step)

    def add_sample(self, step: int, name: str, samples: NDArray[np.float32], rate_hz: int, text: str) -> None:
        """Sound, [N] from -1 to 1, and what is said in it. Raises OutputError."""
        with naming(self._folder):
            self._board.add_audio(f"sample/{name}", samples[None], step, sample_rate=rate_hz)
            self._board.add_text(f"sample/{name}", text, step)

    def close(self) -> None:
        """Writes what waits. Raises OutputError."""
        with naming(self._folder):
            self._board.close()

    def _take_back(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = [
            line for line in self._path.read_text(encoding="utf-8").splitlines(True) if _is_kept(line, step)
        ]
        with whole_file(self._path) as part:
            part.write_text("".join(kept), encoding="utf-8")


def _is_kept(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError):
        return False  # the line that was being written
