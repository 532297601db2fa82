"""The metrics and sounds of a run, for people: TensorBoard, lines of JSON, and wav files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from moshi_agent.audio.files import write_audio
from moshi_agent.checkpoint.write import make_folder
from moshi_agent.outputs import naming, whole_file


class RunMetrics:
    """Writes `metrics.jsonl`, `tensorboard/` and `samples/` into a run's folder.

    Args:
        step: the one that the run goes on from; the metrics of later ones are taken back.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self.samples = run_dir / "samples"
        self._path = run_dir / "metrics.jsonl"
        self._folder = run_dir / "tensorboard"
        with naming(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            self._take_back(step)
            self._board = SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)

    def add(self, step: int, group: str, metrics: Mapping[str, float]) -> None:
        """Writes metrics of one kind, such as `train`, after so many steps. Raises OutputError.

        A value that is not finite is left out: JSON has no word for it.
        """
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        with naming(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": group, **metrics}) + "\n")
        with naming(self._folder):
            for name, value in metrics.items():
                self._board.add_scalar(f"{group}/{name}", value, step)

    def add_sample(self, step: int, name: str, sound: NDArray[np.float32], rate_hz: int, text: str) -> None:
        """Writes sound, [N] or [N, 2] from -1 to 1, and what is said in it. Raises OutputError."""
        make_folder(self.samples)
        write_audio(self.samples / f"step_{step:06d}_{name}.wav", sound, rate_hz)
        mono = sound if sound.ndim == 1 else sound.mean(1)
        with naming(self._folder):
            self._board.add_audio(f"sample/{name}", mono[None], step, sample_rate=rate_hz)
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
