"""References in a frame step: for the rows that have one, and for nobody else."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import pytest

from moshi_agent.config import ReferenceKind, SamplingConfig
from moshi_agent.engine.step.frame_step import FrameStep, RowInput, RowOutput
from moshi_agent.engine.step.step_tensors import ReferenceRow
from tests.engine.step.test_runners import CallingDevice
from tests.reference_models import PIECES, reference_checkpoint

ROWS, FRAMES = 3, 10
KINDS = ("tokens", "rows")
SAMPLING = SamplingConfig(temp=1.0, temp_text=1.0, top_k=30, top_k_text=50)
Mode = Literal["alone", "eager", "graph"]


def reference(kind: ReferenceKind, frame: int) -> int | ReferenceRow:
    """What a row is given: a reference begins, and goes on."""
    if kind == "tokens":
        return PIECES if frame == 0 else 10 + frame
    return np.random.default_rng(frame).normal(0, 1, 16).astype(np.float32)


@cache
def spoken(kind: ReferenceKind, mode: Mode, asking: frozenset[int]) -> list[list[RowOutput]]:
    """What each row says, [rows][frames], where those of `asking` are given a reference from frame 3 on."""
    rows = ROWS if mode != "alone" else 1
    step = FrameStep(reference_checkpoint(kind), rows, graphs=CallingDevice() if mode == "graph" else False)
    sound = np.random.default_rng(0).normal(0, 0.1, (FRAMES, 1920)).astype(np.float32)
    said: list[list[RowOutput]] = [[] for _ in range(rows)]
    for row in range(rows):
        step.begin_row(row, SAMPLING)
    for frame, pcm in enumerate(sound):
        inputs = [
            RowInput(
                row=row,
                pcm=pcm,
                reference=reference(kind, frame - 3) if row in asking and 3 <= frame < 7 else None,
            )
            for row in range(rows)
        ]
        for row, output in enumerate(step.run(inputs)):
            said[row].append(output)
    return said


def same(one: list[RowOutput], other: list[RowOutput]) -> bool:
    """Whether two rows have said the same, to the bit."""
    return all(
        (a.text, a.next_text) == (b.text, b.next_text)
        and (a.audio is None) == (b.audio is None)
        and (a.audio is None or b.audio is None or np.array_equal(a.audio, b.audio))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_of_a_reference_stay_as_they_are_alone(kind: ReferenceKind, mode: Mode) -> None:
    """Also where nobody has one; and who has one says the same alone and in company."""
    silent, asked = spoken(kind, "alone", frozenset()), spoken(kind, "alone", frozenset({0}))
    assert not same(silent[0], asked[0])
    assert same(silent[0][:3], asked[0][:3]), "nothing changes before it comes"
    for asking in (frozenset[int](), frozenset({1}), frozenset({0, 2})):
        for row, said in enumerate(spoken(kind, mode, asking)):
            assert same(said, (asked if row in asking else silent)[0])


def test_a_model_without_references_has_no_room_for_them() -> None:
    """Its graphs are the ones that it always had."""
    seen: list[object] = []
    step = FrameStep(reference_checkpoint(None), 1, graphs=CallingDevice())
    compute = step.compute
    step._runner._compute = lambda *given: (seen.append(given[1].references), compute(*given))[1]  # type: ignore[attr-defined]
    step.begin_row(0, SAMPLING)
    step.run([RowInput(row=0, pcm=np.zeros(1920, np.float32))])
    assert seen and all(one is None for one in seen)
