"""Captured steps and the packed codec beside the plain ones, on the very device."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from moshi_agent.config import SamplingConfig
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.fast_paths import Comparison

_log = logging.getLogger("moshi_agent.engine")
_STEPS = 6
_TOLERANCE = 1e-2  # of the loudest sample
_CODES_THAT_MAY_DIFFER = 0.02  # a latent half-way between two entries goes either way with the last bit


def check_graphs(step: FrameStep) -> None:
    """Captures a step's graphs, and has it go without where they differ. Begins every row anew.

    Raises what capturing does: see `GraphRunner.warm_up`.
    """
    if not step.is_captured:
        return
    step.warm_up()
    result = compare_graphs(step)
    if not result.agrees:
        _log.warning(
            "CUDA graphs are switched off, and steps take several times as long: what is heard of them %s",
            result.told,
        )
        step.give_up_graphs()


def compare_graphs(step: FrameStep, repeats: int = 0) -> Comparison:
    """Compares captured steps with steps launched kernel by kernel. Begins every row anew.

    All tokens are forced: so both stay on one path.
    """
    inputs = _inputs(step)
    captured, fast_ms = _heard(step, inputs), _time_step(step, inputs[-1:], repeats)
    with step.without_graphs():
        launched, plain_ms = _heard(step, inputs), _time_step(step, inputs[-1:], repeats)
    step.rebuild()
    difference = float(np.abs(captured - launched).max() / max(1e-6, np.abs(launched).max()))
    return Comparison(
        name="graphs",
        what="captured steps",
        of="the loudest sample",
        agrees=difference <= _TOLERANCE,
        difference=difference,
        tolerance=_TOLERANCE,
        fast_ms=fast_ms,
        plain_ms=plain_ms,
    )


def _heard(step: FrameStep, inputs: list[RowInput]) -> NDArray[np.float32]:
    """What comes of these steps of a new conversation, [N]."""
    step.begin_row(0, SamplingConfig(greedy=True))
    audio = [step.run([given])[0].audio for given in inputs]
    return np.concatenate([np.zeros(1, np.float32), *(one for one in audio if one is not None)])


def _time_step(step: FrameStep, inputs: list[RowInput], repeats: int) -> float | None:
    return _milliseconds(partial(step.run, inputs), repeats) if repeats else None


def _inputs(step: FrameStep) -> list[RowInput]:
    """Noise, and tokens of all streams."""
    generator = np.random.default_rng(0)
    least = int(step.highest_tokens.min())
    return [
        RowInput(
            row=0,
            pcm=generator.normal(0, 0.1, step.mimi.frame_size).astype(np.float32),
            forced=generator.integers(0, max(1, least), step.num_streams),
        )
        for _ in range(_STEPS + step.max_delay)
    ]


@torch.inference_mode()
def compare_codecs(packed: MimiModel, plain: MimiModel, repeats: int = 0) -> Comparison:
    """Compares the codes that two forms of a codec give for noise."""
    noise = 0.1 * torch.randn(1, 1, 12 * plain.frame_size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(plain.device)
    differing = float((packed.encode(noise) != plain.encode(noise)).float().mean())
    fast_ms = plain_ms = None
    if repeats:
        fast_ms, plain_ms = (_milliseconds(partial(_codes, one, noise), repeats) for one in (packed, plain))
    return Comparison(
        name="packed codec",
        what="codes of the packed codec",
        of="all codes",
        agrees=differing <= _CODES_THAT_MAY_DIFFER,
        difference=differing,
        tolerance=_CODES_THAT_MAY_DIFFER,
        fast_ms=fast_ms,
        plain_ms=plain_ms,
    )


def _codes(mimi: MimiModel, noise: torch.Tensor) -> torch.Tensor:
    """On the host, so that they are waited for. [1, 1, N] -> [1, K, frames]."""
    return mimi.encode(noise).cpu()


def _milliseconds(call: Callable[[], object], repeats: int) -> float:
    call()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1000 * (time.perf_counter() - started) / repeats
