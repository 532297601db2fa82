"""Calls longer than the model's context: told of, survived, and begun anew where that is wished."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from moshi_agent import ContextFull, ContextRefreshed, Engine, Event, Prompt, SessionConfig, TextToken
from moshi_agent.checkpoint import Checkpoint
from tests.engine.stepped_core import SILENCE, SteppedCore, audio_of, kinds_of, taken

# The random model never falls silent by itself: here nothing counts as loud, and there is no text.
MUTE = SessionConfig(seed=1, live=False, silence_floor_dbfs=20.0, digital_silence=False)
NOISE = np.random.default_rng(0).normal(0, 0.1, (6, 1920)).astype(np.float32)


@pytest.fixture
def mute(small_checkpoint: Checkpoint) -> SteppedCore:
    return SteppedCore(replace(small_checkpoint, tokenizer=None))


def test_a_full_context_is_told_once_and_the_window_rolls_on(mute: SteppedCore) -> None:
    session = mute.session(MUTE)
    for _ in range(30):
        session.push(SILENCE)
    mute.settle()
    events = taken(session)
    assert [event.frame for event in kinds_of(events, ContextFull)] == [7]  # 8 steps, the first hears nothing
    assert not kinds_of(events, ContextRefreshed)
    assert len(audio_of(events)) == 30 * 1920


@pytest.mark.parametrize("with_prompt", [False, True])
def test_refreshed_it_goes_on_as_one_that_has_just_begun(mute: SteppedCore, with_prompt: bool) -> None:
    prompt = Prompt(np.full((3, 5), 7)) if with_prompt else None
    session = mute.session(replace(MUTE, refresh=True, prompt=prompt))
    events: list[Event] = []
    while not kinds_of(events, ContextRefreshed):
        session.push(SILENCE)
        mute.settle()
        events += taken(session)
    full, refreshed = kinds_of(events, ContextFull, ContextRefreshed)
    assert isinstance(full, ContextFull)
    assert refreshed.frame >= 6  # so much silence on both sides
    fresh = mute.session(replace(MUTE, prompt=prompt))
    sounds: list[NDArray[np.float32]] = []
    for one in (session, fresh):
        for pcm in NOISE:
            one.push(pcm)
        mute.settle()
        sounds.append(audio_of(taken(one)))
    assert np.array_equal(*sounds)


def test_it_is_not_refreshed_while_the_user_speaks(mute: SteppedCore, thanks: NDArray[np.float32]) -> None:
    session = mute.session(replace(MUTE, refresh=True))
    session.push(np.concatenate([thanks, np.zeros(9 * 1920, np.float32)]))
    mute.settle()
    events = taken(session)
    (refreshed,) = kinds_of(events, ContextRefreshed)
    assert refreshed.frame >= len(thanks) // 1920


@pytest.mark.slow
def test_the_built_in_model_still_answers_after_its_context_with_and_without(
    engine: Engine, thanks: NDArray[np.float32]
) -> None:
    def call(refresh: bool) -> list[Event]:
        config = SessionConfig(seed=1, live=False, tail_ms=1200, refresh=refresh)
        session = engine.open_session(config, on_event=events[refresh].append)
        session.push(np.zeros(161 * 1920, np.float32))
        session.push(thanks)
        session.finish()
        sessions.append(session)
        return events[refresh]

    events: dict[bool, list[Event]] = {False: [], True: []}
    sessions = []
    for refresh in (False, True):
        call(refresh)
    assert all(session.wait(60) for session in sessions)
    for refresh, heard in events.items():
        text = "".join(event.text for event in heard if isinstance(event, TextToken)).strip()
        assert text == "You are very welcome."
        assert [event.frame for event in kinds_of(heard, ContextFull)] == [159]
        assert len(kinds_of(heard, ContextRefreshed)) == refresh
