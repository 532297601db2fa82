"""How many conversations a GPU serves with Moshi 7B, each with a full context of 3000 frames.

    python tests/benchmarks/full_size.py                              # 1 to 160 callers, 8-bit cache
    python tests/benchmarks/full_size.py --kv-cache float --most 80   # bfloat16 cache
    python tests/benchmarks/full_size.py --device cpu --scale 8 --context 20 --most 1   # a trial

Generates a checkpoint with random weights (15 GB, kept where `--model` names a folder) and prints two tables.
The first is of the frame step alone, of rows whose caches are full. The second is of `moshi-agent bench`:
callers in real time, each of whose conversations was resumed where the context is full.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from random_checkpoint import CONTEXT, SCALES, generate

from moshi_agent import load_checkpoint
from moshi_agent.cli.machine import machine_name
from moshi_agent.engine.frame_step import FrameStep

CALLERS = (1, 8, 16, 32, 64, 80, 128, 160)


def main() -> None:
    options = _options()
    counts = [count for count in CALLERS if count <= options.most]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model or Path(temporary)
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            print(f"{generate(folder, options.scale, options.context) / 1e9:.2f} GB generated", flush=True)
        if not options.callers_only:
            # In a process of its own: its memory has to be free again for the engine.
            command = [sys.executable, __file__, *sys.argv[1:], "--model", str(folder), "--steps-only"]
            if options.steps_only:
                print_steps(folder, options, counts)
                return
            subprocess.run(command, check=True)
        subprocess.run(bench_command(folder, options, counts), check=True)


def print_steps(folder: Path, options: argparse.Namespace, counts: Sequence[int]) -> None:
    """The time of a frame step with full caches, by the number of rows."""
    checkpoint = load_checkpoint(folder, device=options.device, pack="auto")
    step = FrameStep(checkpoint, max(counts), kv_cache=options.kv_cache)
    step.warm_up()
    print(f"{machine_name(options.device)}: frame step, full caches, {options.kv_cache} cache")
    print(f"{step.row_bytes / 1e9:.3f} GB a conversation")
    print("| rows | p50 ms | p95 ms | p99 ms |\n|-----:|-------:|-------:|-------:|")
    for rows, times_ms in step.measure(counts, options.repeats).items():
        p50, p95, p99 = np.percentile(times_ms, (50, 95, 99))
        print(f"| {rows:4} | {p50:6.1f} | {p95:6.1f} | {p99:6.1f} |", flush=True)


def bench_command(folder: Path, options: argparse.Namespace, counts: Sequence[int]) -> list[str]:
    """`moshi-agent bench` with callers whose contexts are full."""
    sessions = [argument for count in counts for argument in ("--sessions", str(count))]
    return [
        *(sys.executable, "-m", "moshi_agent", "bench", "--model", str(folder), "--device", options.device),
        *("--kv-cache", options.kv_cache, "--seconds", str(options.seconds), "--full-context"),
        *("--json", str(options.json), *sessions),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kv-cache", default="int8", choices=("auto", "float", "int8"))
    parser.add_argument("--most", type=int, default=max(CALLERS), help="leave out larger numbers")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each number of callers")
    parser.add_argument("--repeats", type=int, default=100, help="steps timed of each number of rows")
    parser.add_argument("--scale", type=int, default=1, choices=SCALES, help="divides every width")
    parser.add_argument("--context", type=int, default=CONTEXT, help="frames")
    parser.add_argument("--model", type=Path, help="the folder of the checkpoint, generated if it is empty")
    parser.add_argument("--json", type=Path, default=Path("full_size.json"))
    parser.add_argument("--steps-only", action="store_true")
    parser.add_argument("--callers-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    return options


if __name__ == "__main__":
    main()
