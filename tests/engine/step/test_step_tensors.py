"""The buffers of a step: what goes in and comes out, and how few copies bring it there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moshi_agent.config import ReferenceKind
from moshi_agent.engine.step.step_tensors import (
    NO_REFERENCE,
    InputBuffers,
    ResultTensors,
    RowInput,
    StepShape,
)

_CPU = torch.device("cpu")
_SHAPE = StepShape(rows=4, frame_size=1920, streams=5, context=3000, device=_CPU, heads=3)


class TorchDispatchLog(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._names.append(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))

    def count(self, name: str) -> int:
        return self._names.count(name)


def _reference(kind: ReferenceKind | None) -> int | np.ndarray | None:
    return None if kind is None else 7 if kind == "tokens" else np.full(6, 0.5, np.float32)


@pytest.mark.parametrize("kind", [None, "tokens", "rows"])
def test_input_arrives_whole_and_what_is_small_of_it_in_one_piece(kind: ReferenceKind | None) -> None:
    """Each tensor is contiguous, as what is written in C takes it."""
    shape = replace(_SHAPE, references=kind, dim=6)
    here, there = (InputBuffers.new(shape, _CPU) for _ in range(2))
    pcm, forced = np.linspace(-1, 1, 1920, dtype=np.float32), np.arange(5)
    given = RowInput(row=1, pcm=pcm, forced=forced, next_piece=9, reference=_reference(kind))
    here.fill(3, [given, RowInput(row=2, pcm=None)])
    there.copy_rows(here, 3)
    assert there.steps.tolist() == [False, True, True, False]
    assert there.hears.tolist() == [False, True, False, False]
    np.testing.assert_array_equal(there.pcm[1, 0].numpy(), pcm)
    assert there.forced.tolist() == [[-2] * 5, [0, 1, 2, 3, 4], [-2] * 5, [-2] * 5]
    assert there.next_piece.tolist() == [-1, 9, -1, -1]
    if kind == "tokens":
        assert there.references.tolist() == [NO_REFERENCE, 7, NO_REFERENCE, NO_REFERENCE]
    elif kind == "rows":
        assert there.references.sum(1).tolist() == [0, 3, 0, 0]
    assert all(tensor.is_contiguous() for tensor in there.first_rows(2).tensors())


@pytest.mark.parametrize("kind", [InputBuffers, ResultTensors])
def test_a_copy_is_of_what_is_large_and_of_all_that_is_small(
    kind: type[InputBuffers] | type[ResultTensors],
) -> None:
    """Two launches, where each field had one of its own."""
    here, there = (kind.new(_SHAPE, _CPU) for _ in range(2))
    with TorchDispatchLog() as log:
        there.copy_rows(here, 2)  # pyright: ignore[reportArgumentType]
    assert log.count("aten::copy_") == 2


def test_a_result_arrives_whole_and_outlives_the_next() -> None:
    here, there = (ResultTensors.new(_SHAPE, _CPU) for _ in range(2))
    audio = torch.randn(4, 1920)
    computed = ResultTensors(
        audio=audio,
        text=torch.arange(4),
        next_text=torch.arange(4) + 10,
        speaks=torch.tensor([True, False, True, True]),
        healthy=torch.tensor([True, True, False, True]),
        heads=torch.arange(12.0).view(4, 3),
    )
    here.copy_rows(computed, 3)
    there.copy_rows(here, 3)
    outputs = there.outputs([0, 1, 2])
    there.copy_rows(ResultTensors.new(_SHAPE, _CPU), 4)
    assert [output.text for output in outputs] == [0, 1, 2]
    assert [output.next_text for output in outputs] == [10, 11, 12]
    assert [output.healthy for output in outputs] == [True, True, False]
    assert outputs[2].heads == (6.0, 7.0, 8.0) and outputs[1].audio is None
    np.testing.assert_array_equal(outputs[2].audio, audio[2].numpy())
    moved = computed.to_host()
    assert moved.packed is None and torch.equal(moved.audio, audio)
