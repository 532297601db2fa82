"""A condition that is read before a row's first step, whenever and however the row begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import ConditionerConfig, FuserConfig, SamplingConfig
from moshi_agent.engine.step.frame_step import FrameStep, RowInput, RowOutput
from moshi_agent.errors import InputError
from moshi_agent.models.lm import LMModel
from tests.small_models import small_lm_config, small_mimi

GREEDY = SamplingConfig(greedy=True)
FRAMES = 20  # over twice the context
SOUND = np.random.default_rng(0).normal(0, 0.1, (FRAMES, 1920)).astype(np.float32)


def checkpoint() -> Checkpoint:
    values = ("SPEAKER_MAIN", "SPEAKER_OTHER")
    speaker = ConditionerConfig(name="first_speaker", kind="lut", dim=4, n_bins=2, possible_values=values)
    fuser = FuserConfig(prepend=("first_speaker",))
    config = replace(small_lm_config(), conditioners=(speaker,), fuser=fuser)
    torch.manual_seed(0)
    lm = LMModel(config)
    lm.init_weights()
    mimi = small_mimi()
    return Checkpoint(
        name="prepended",
        mimi=mimi,
        mimi_config=mimi.config,
        lm=lm.eval(),
        config=config,
        tokenizer=None,
    )


def new_step(rows: int = 1, speaker: str = "SPEAKER_MAIN") -> FrameStep:
    return FrameStep(checkpoint(), rows, conditions={"first_speaker": speaker})


def texts(step: FrameStep, row: int, frames: slice = slice(None)) -> list[int]:
    outputs: list[RowOutput] = [step.run([RowInput(row=row, pcm=pcm)])[0] for pcm in SOUND[frames]]
    return [output.next_text for output in outputs]


@pytest.fixture(scope="module")
def wanted() -> list[int]:
    return texts(new_step(), 0)


def test_the_condition_is_heard(wanted: list[int]) -> None:
    assert len(set(wanted)) > 2
    assert texts(new_step(speaker="SPEAKER_OTHER"), 0) != wanted
    assert texts(FrameStep(checkpoint(), 1), 0) == wanted, "by default the model speaks first"


def test_every_beginning_reads_it(wanted: list[int]) -> None:
    """A row that begins while another goes on, and all rows after a failed step."""
    step = new_step(rows=2)
    first = texts(step, 1, slice(0, 8))
    step.begin_row(0, GREEDY)
    assert texts(step, 0) == wanted
    assert first + texts(step, 1, slice(8, None)) == wanted
    step.rebuild()
    assert texts(step, 1) == wanted


def test_a_row_moves_and_is_resumed_with_it(wanted: list[int]) -> None:
    step = new_step(rows=3)
    begun = texts(step, 0, slice(0, 5))
    step.move_row(0, 2)
    saved = step.save_row(2)
    step.begin_row(0, GREEDY)
    assert not step.resume_row(0, saved)
    for row in (0, 2):
        assert begun + texts(step, row, slice(5, None)) == wanted
    with pytest.raises(InputError, match="no conversation has"):
        step.resume_row(1, replace(saved, steps=6))
