"""`moshi-agent bench` with a model of random weights; conversations have full caches when they begin.

Run by on_gpu.py. The engine's process imports this file again, as `multiprocessing` does with every main
script, and so finds the same.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from random_checkpoint import draw

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.engine import local
from moshi_agent.engine.step.frame_step import FrameStep

CALLERS = (1, 32, 64, 80, 96, 128, 160)
_SIZE = "MOSHI_AGENT_BENCHMARK_SIZE"  # scale and context, for the engine's process


class FullFrameStep(FrameStep):
    """Every row begins as one that has outlasted the context, and costs as much as it ever will."""

    def begin_row(self, row: int, sampling: SamplingConfig) -> None:
        super().begin_row(row, sampling)
        self.fill_row(row)


def _draw(source: str, *, device: str, **others: Any) -> Checkpoint:
    scale, context = map(int, os.environ[_SIZE].split())
    return draw(device, scale, context)


if _SIZE in os.environ:
    local.FrameStep = FullFrameStep
    local.load_checkpoint = _draw  # pyright: ignore[reportAttributeAccessIssue]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--context", type=int, default=3000)
    parser.add_argument("--most", type=int, default=160)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    os.environ[_SIZE] = f"{options.scale} {options.context}"
    from moshi_agent.cli import main as run

    counts = [count for count in CALLERS if count <= options.most]
    sys.argv = ["moshi-agent", "bench", "--model", "tiny", "--device", options.device, "--kv-cache", "auto"]
    sys.argv += ["--seconds", str(options.seconds), "--json", str(options.json)]
    sys.argv += [argument for count in counts for argument in ("--sessions", str(count))]
    run()


if __name__ == "__main__":
    main()
