"""What a conversation says does not depend on who else is there: the same tokens and samples, to the bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent import SamplingConfig
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.schedule.slots import Slots
from moshi_agent.engine.step.frame_step import FrameStep, RowInput, RowOutput

ROWS = 5
KINDS = 3
LONGEST = 12  # frames of a conversation
SAMPLING = SamplingConfig(temp=0.9, temp_text=0.9, top_k=50, top_k_text=20)  # chance shows every difference


@dataclass
class Material:
    """What conversations of each kind hear, and what they say when they are alone."""

    checkpoint: Checkpoint
    speech: NDArray[np.float32]

    def heard(self, kind: int, frame: int) -> RowInput:
        """The input of a row, whose number is to be set. The first step hears nothing."""
        if frame == 0:
            return RowInput(row=0, pcm=None)
        start = 1920 * (4 * kind + frame)
        return RowInput(row=0, pcm=self.speech[start : start + 1920])

    def sampling(self, kind: int) -> SamplingConfig:
        return SamplingConfig(**{**vars(SAMPLING), "seed": 100 + kind})

    @cache  # noqa: B019
    def alone(self, kind: int) -> list[RowOutput]:
        step = FrameStep(self.checkpoint, 1)
        step.begin_row(0, self.sampling(kind))
        return [step.run([self.heard(kind, frame)])[0] for frame in range(LONGEST)]

    def __hash__(self) -> int:
        return id(self)


@dataclass
class Crowd:
    """Conversations that come and go in the rows of one frame step."""

    material: Material
    step: FrameStep
    slots: Slots[int] = field(default_factory=lambda: Slots[int](ROWS))
    kinds: dict[int, int] = field(default_factory=dict)
    frames: dict[int, int] = field(default_factory=dict)
    moves: int = 0

    def join(self, kind: int) -> None:
        if len(self.slots) < ROWS:
            key = len(self.kinds)
            self.kinds[key], self.frames[key] = kind, 0
            self.step.begin_row(self.slots.claim(key), self.material.sampling(kind))

    def leave(self, place: int) -> None:
        if len(self.slots):
            move = self.slots.release(list(self.slots)[place % len(self.slots)])
            if move is not None:
                self.step.move_row(move.source, move.target)
                self.moves += 1

    def go_on(self, who: int) -> None:
        """One step of the rows whose bit is set in `who`."""
        keys = [key for key in self.slots if who >> self.slots.row_of(key) & 1 and self.frames[key] < LONGEST]
        if not keys:
            return
        inputs = [
            RowInput(
                row=self.slots.row_of(key), pcm=self.material.heard(self.kinds[key], self.frames[key]).pcm
            )
            for key in keys
        ]
        for key, output in zip(keys, self.step.run(inputs), strict=True):
            expected = self.material.alone(self.kinds[key])[self.frames[key]]
            assert (output.text, output.next_text) == (expected.text, expected.next_text)
            assert np.array_equal(output.audio, expected.audio) if output.audio is not None else True
            assert (output.audio is None) == (expected.audio is None)
            assert output.healthy
            self.frames[key] += 1


@pytest.fixture(scope="module")
def material(checkpoint: Checkpoint, thanks: NDArray[np.float32]) -> Material:
    return Material(checkpoint, thanks)


ACTS = st.one_of(
    st.tuples(st.just("join"), st.integers(0, KINDS - 1)),
    st.tuples(st.just("leave"), st.integers(0, ROWS - 1)),
    st.tuples(st.just("go_on"), st.integers(1, 2**ROWS - 1)),
    st.tuples(st.just("go_on"), st.just(2**ROWS - 1)),
)


@settings(
    max_examples=5,
    phases=[Phase.explicit, Phase.generate],  # a smaller example would take minutes to find
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(acts=st.lists(ACTS, min_size=14, max_size=24))
def test_any_joining_leaving_and_waiting_leaves_a_conversation_as_it_is_alone(
    material: Material, acts: list[tuple[str, int]]
) -> None:
    crowd = Crowd(material, FrameStep(material.checkpoint, ROWS))
    for name, number in [("join", 0), ("join", 1), *acts]:
        getattr(crowd, name)(number)


def test_a_conversation_that_moves_twice_in_its_midst_says_the_same(material: Material) -> None:
    crowd = Crowd(material, FrameStep(material.checkpoint, ROWS))
    everybody = 2**ROWS - 1
    for kind in (0, 1, 2, 0, 1):
        crowd.join(kind)
        crowd.go_on(everybody)
    for act, number in [("go_on", 31), ("leave", 1), ("go_on", 9), ("join", 2), ("go_on", 31)]:
        getattr(crowd, act)(number)
    for act, number in [("leave", 0), ("go_on", 31), ("leave", 0), ("go_on", 31), ("go_on", 5)]:
        getattr(crowd, act)(number)
    assert crowd.moves == 3
    assert max(crowd.frames.values()) >= 8
