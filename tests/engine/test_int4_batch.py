"""A full engine on int4 weights: what a conversation says does not depend on who else is there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moshi_agent import Engine, SamplingConfig, SessionConfig
from tests.engine.stepped_core import audio_of

CAPACITY = 4


def _config(seed: int) -> SessionConfig:
    """By chance, which shows every difference."""
    sampling = SamplingConfig(temp=1.2, temp_text=1.2)
    return SessionConfig(
        sampling=sampling,
        seed=seed,
        live=False,
        digital_silence=False,
        tail_ms=400,
        longest_tail_ms=800,
    )


def test_in_a_full_batch_each_says_what_it_says_alone(thanks: NDArray[np.float32]) -> None:
    """The same samples, to the bit, whatever the others hear; and no two the same."""
    questions = [np.roll(thanks, 4_000 * number)[16_000:34_000] for number in range(CAPACITY)]
    with Engine.load("tiny", shared=False, capacity=CAPACITY, dtype="int4", admit_by_time=False) as engine:
        alone: list[NDArray[np.float32]] = []
        for seed, question in enumerate(questions):
            with engine.session(_config(seed)) as session:
                session.push(question)
                session.finish()
                alone.append(audio_of(list(session)))
        sessions = [engine.open_session(_config(seed)) for seed in range(CAPACITY)]
        for session, question in zip(sessions, questions, strict=True):
            session.push(question)
        for session in sessions:
            session.finish()
        together = [audio_of(list(session)) for session in sessions]
        assert engine.metrics().batch_size.max == CAPACITY
    for one, other in zip(together, alone, strict=True):
        assert len(one) > 12_000 and np.array_equal(one, other)
    assert len({one.tobytes() for one in alone}) == CAPACITY
