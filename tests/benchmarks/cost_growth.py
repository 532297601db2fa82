"""How the cost of a frame grows: with callers, with the context that is attended to, and over hours of call.

    python tests/benchmarks/cost_growth.py [--hours 1] [--plot cost.svg]

Prints a table of the milliseconds of the processor that a frame of `tiny` takes, and draws it. Contexts are
`tiny`'s weights with a longer cache, filled to its end; a call of hours is computed as fast as it goes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import moshi_agent
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.step.frame_step import FrameStep, RowInput

CALLERS = (1, 2, 4, 8, 16, 24, 32)
CONTEXTS = (100, 250, 500, 1000, 2000, 3000)  # frames
PARTS_OF_A_CALL = 6
FRAMES_A_SECOND = 12.5
REPEATS = 15

Curve = tuple[str, list[tuple[float, float]]]  # what it goes by, and pairs of that and milliseconds


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    tiny = Path(moshi_agent.__file__).parent / "assets" / "tiny"
    curves = [
        ("callers", [(float(count), ms) for count, ms in _by_callers(tiny)]),
        ("frames of context, 1 caller", [(float(frames), ms) for frames, ms in _by_context(tiny)]),
        ("hours of call, 1 caller", list(_by_hours(tiny, options.hours))),
    ]
    for name, points in curves:
        print(f"\n| {name} | ms a frame | each |\n|---|---|---|")
        for x, ms in points:
            print(f"| {x:g} | {ms:.2f} | {ms / x if name == 'callers' else ms:.2f} |")
    if options.plot:
        options.plot.write_text(_picture(curves), encoding="utf-8")
        print(f"\n{options.plot}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def _by_callers(tiny: Path) -> Iterator[tuple[int, float]]:
    step = FrameStep(load_checkpoint(tiny, pack="float32"), CALLERS[-1])
    for callers in CALLERS:
        yield callers, _full_step_ms(step, callers)


def _by_context(tiny: Path) -> Iterator[tuple[int, float]]:
    for frames in CONTEXTS:
        with tempfile.TemporaryDirectory() as folder:
            longer = Path(shutil.copytree(tiny, Path(folder) / "tiny"))
            config = json.loads((longer / "config.json").read_text()) | {"context": frames}
            (longer / "config.json").write_text(json.dumps(config))
            yield frames, _full_step_ms(FrameStep(load_checkpoint(longer, pack="float32"), 1), 1)


def _by_hours(tiny: Path, hours: float) -> Iterator[tuple[float, float]]:
    """The median frame of each part of one call."""
    step = FrameStep(load_checkpoint(tiny, pack="float32"), 1)
    step.begin_row(0, SamplingConfig(temp=0.2, temp_text=0.2, top_k=20, top_k_text=5))
    frames = int(hours * 3600 * FRAMES_A_SECOND / PARTS_OF_A_CALL)
    for part in range(1, PARTS_OF_A_CALL + 1):
        yield round(part * hours / PARTS_OF_A_CALL, 3), statistics.median(_steps_ms(step, 1, frames))


def _full_step_ms(step: FrameStep, callers: int) -> float:
    for row in range(callers):
        step.fill_row(row)
    return statistics.median(_steps_ms(step, callers, REPEATS)[3:])


def _steps_ms(step: FrameStep, callers: int, count: int) -> list[float]:
    noise = np.random.default_rng(0).normal(0, 0.05, step.mimi.frame_size).astype(np.float32)
    inputs = [RowInput(row=row, pcm=noise) for row in range(callers)]
    times: list[float] = []
    for _ in range(count):
        began = time.thread_time()
        step.run(inputs)
        times.append(1000 * (time.thread_time() - began))
    return times


def _picture(curves: Sequence[Curve]) -> str:
    """One plot for each curve, side by side, as SVG."""
    width, height, edge = 300, 200, 45
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(curves) * (width + edge) + edge} '
        f'{height + 2 * edge}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (name, points) in enumerate(curves):
        left, base = edge + number * (width + edge), edge + height
        most_x, most_ms = points[-1][0], 1.1 * max(ms for _, ms in points)
        places = [
            (left + width * 0.95 * (x / most_x) ** 0.5, base - height * ms / most_ms, x, ms)
            for x, ms in points
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
        parts.append(f'<path d="M{left} {edge}V{base}H{left + width}" fill="none" stroke="#888"/>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="#2266aa" stroke-width="2"/>')
        parts.append(f'<text x="{left}" y="{edge - 12}">ms a frame, by {name} (as its root)</text>')
        for x, y, value, ms in places:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#2266aa"/>')
            parts.append(f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle">{ms:.1f}</text>')
            parts.append(f'<text x="{x:.1f}" y="{base + 14}" text-anchor="middle">{value:g}</text>')
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
