"""The built-in model, loaded once, and an engine that serves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from moshi_agent import Engine
from moshi_agent.checkpoint import Checkpoint, load_checkpoint
from moshi_agent.questions import find_question, sample_questions
from tests.engine.stepped_core import SteppedCore
from tests.small_models import small_lm, small_mimi
from tests.text_tokenizers import small_tokenizer


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """`tiny`, packed as the engine packs it."""
    return load_checkpoint("tiny", pack="auto")


@pytest.fixture(scope="session")
def small_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Random weights, a context of 8 frames: enough to see who is stepped when."""
    mimi, lm = small_mimi(), small_lm()
    for model in (mimi, lm):
        model.pack("float32")  # so that a row does not depend on how many there are
    return replace(checkpoint, name="small", mimi=mimi, lm=lm, tokenizer=small_tokenizer())


@pytest.fixture
def core(small_checkpoint: Checkpoint) -> SteppedCore:
    """A core of four rows of the small model."""
    return SteppedCore(small_checkpoint)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Eight rows of `tiny`. A test that counts its rows or threads has one of its own."""
    with Engine.load("tiny", device="cpu", capacity=8, admit_by_time=False) as engine:
        yield engine


@pytest.fixture(scope="session")
def thanks() -> NDArray[np.float32]:
    """'Thank you very much.', [N] at 24 kHz."""
    question = find_question("Thank you very much.", sample_questions())
    samples, rate_hz = sf.read(question.path, dtype="float32")
    assert rate_hz == 24_000
    return samples
