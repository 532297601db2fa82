"""The check at loading that a row's bits do not depend on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.step import frame_step
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.engine.step.row_invariance import rows_are_invariant
from moshi_agent.engine.step.runners import EagerRunner
from moshi_agent.nn.linear import Linear


def test_packed_products_pass_and_one_that_feels_its_batch_does_not(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product that adds something of the last bit where there are more rows is found out."""
    assert checkpoint.lm is not None
    assert rows_are_invariant([checkpoint.mimi, checkpoint.lm], 8)
    layer = Linear(16, 16)
    layer.pack("float32")
    assert rows_are_invariant([layer], 8)
    product = type(layer.product)
    plain = product.__call__
    monkeypatch.setattr(product, "__call__", lambda self, x: plain(self, x) + 1e-6 * (len(x) > 4))
    assert not rows_are_invariant([layer], 8)


def test_a_model_that_is_not_packed_promises_nothing() -> None:
    """So there is nothing to check."""
    assert rows_are_invariant([nn.Linear(4, 4), Linear(4, 4)], 8)


def test_where_rows_feel_their_batch_it_is_always_the_same(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are then of all rows, however few conversations there are."""
    counts: list[int] = []
    launch = EagerRunner.launch

    def spy(self: EagerRunner, count: int, *arguments: object) -> object:
        counts.append(count)
        return launch(self, count, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(EagerRunner, "launch", spy)
    for invariant, count in ((True, 1), (False, 3)):
        monkeypatch.setattr(frame_step, "rows_are_invariant", lambda *_, answer=invariant: answer)
        step = FrameStep(checkpoint, 3)
        with torch.inference_mode():
            step.run([RowInput(row=0, pcm=np.zeros(1920, np.float32))])
        assert counts.pop() == count
