"""The time of a frame step, measured on one conversation."""

from __future__ import annotations

from collections.abc import Iterator

import click
import numpy as np

from moshi_agent.audio.framing import FRAME_SAMPLES, Samples
from moshi_agent.cli.model import On, start_conversation

_WARM_UP_FRAMES = 25  # caches fill and kernels are chosen
_FRAME_MS = 80.0


def print_step_times(model: str, on: On, frames: int) -> None:
    """Prints median, p99 and worst step in ms, over `frames` frames of noise."""
    conversation = start_conversation(model, on, {"greedy": True, "seed": 0})
    replies = conversation.stream(_noise(_WARM_UP_FRAMES + frames))
    steps_ms = np.array([reply.step_ms for reply in replies])[_WARM_UP_FRAMES:]
    median, p99 = np.percentile(steps_ms, [50, 99])
    click.echo(
        f"{model} on {on.device}, {on.threads} thread(s): {frames} frames, step {median:.1f} ms median, "
        f"{p99:.1f} ms p99, {steps_ms.max():.1f} ms worst, real-time factor {steps_ms.mean() / _FRAME_MS:.3f}"
    )


def _noise(frames: int) -> Iterator[Samples]:
    """Frames [1920] at about -40 dBFS: enough that no step is spared for silence."""
    generator = np.random.default_rng(0)
    for _ in range(frames):
        yield generator.standard_normal(FRAME_SAMPLES, dtype=np.float32) * 0.01
