"""Captured steps beside those launched one by one, and what an engine does where they differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.engine.step.step_check import check_graphs, compare_codecs, compare_graphs
from tests.small_models import small_lm, small_mimi


class _Device:
    """Calls again what it was to capture; with `forgets`, what was given first."""

    can_pin = False

    def __init__(self, forgets: bool = False) -> None:
        self._forgets = forgets

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        call()
        return (lambda: None) if self._forgets else call

    def mark(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def used_bytes(self) -> int:
        return 0


def _step(device: _Device) -> FrameStep:
    mimi, lm = small_mimi(), small_lm()
    mimi.set_num_codebooks(2)
    checkpoint = Checkpoint(
        name="small", mimi=mimi, mimi_config=mimi.config, lm=lm, config=lm.config, tokenizer=None
    )
    return FrameStep(checkpoint, 2, graphs=device)


def test_graphs_that_do_what_the_kernels_do_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    step = _step(_Device())
    result = compare_graphs(step, repeats=2)
    assert result.agrees and result.difference == 0 and result.fast_ms is not None
    check_graphs(step)
    assert step.is_captured and not caplog.records
    assert step.steps_taken(0) == 0 and not step.state.lm.temporal.offset.any()


def test_graphs_that_do_something_else_are_given_up_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    step = _step(_Device(forgets=True))
    check_graphs(step)
    assert not step.is_captured
    assert "CUDA graphs are switched off" in caplog.text
    silence = np.zeros(1920, np.float32)
    assert all(step.run([RowInput(row=0, pcm=silence)])[0].healthy for _ in range(3))


def test_a_packed_codec_gives_the_codes_of_the_plain_one() -> None:
    packed, plain = small_mimi(), small_mimi()
    packed.pack("float32")
    assert compare_codecs(packed, plain, repeats=1).agrees
    ill = small_mimi()
    with torch.no_grad():
        next(ill.encoder.parameters()).add_(1.0)
    assert not compare_codecs(ill, plain).agrees
