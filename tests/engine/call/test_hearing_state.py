"""A call to a recogniser alone, on hand-made outputs: what is told of pauses, and what is never told."""

from __future__ import annotations

import numpy as np
import pytest

from moshi_agent import Event, InputError, SamplingConfig, SessionConfig, UserPaused, UserSaid
from moshi_agent.engine.call.hearing_state import HearingState
from moshi_agent.engine.call.model import Model
from moshi_agent.engine.call.opening import PromptFrame
from moshi_agent.engine.commands import InputFrame
from moshi_agent.engine.schedule.scheduler import Ready
from moshi_agent.engine.step.step_tensors import RowOutput
from moshi_agent.text.timed_reader import Hearing
from tests.text_tokenizers import END_OF_PADDING, PADDING, byte_tokenizer

THE = byte_tokenizer().PieceToId("\u2581the")
SPEECH = [(PADDING, 0.0)] * 8 + [(END_OF_PADDING, 0.0), (THE, 0.0)]


def call(config: SessionConfig, told: list[Event]) -> HearingState:
    model = Model(
        tokenizer=byte_tokenizer(),
        num_streams=33,
        max_delay=0,
        context=None,
        delay_s=0.5,
        hearing=Hearing(tokenizer=byte_tokenizer(), delay_s=0.5),
        hears_only=True,
        silent_frames=3,
    )
    outlet = lambda delivery: told.extend(delivery.events)  # noqa: E731
    return HearingState(1, config, SamplingConfig(greedy=True), model, outlet)


def hear(steps: list[tuple[int, float]]) -> list[Event]:
    """The events of (token, probability of half a second of silence), frame by frame."""
    told: list[Event] = []
    state = call(SessionConfig(), told)
    for number, (token, pause) in enumerate(steps):
        pcm = np.zeros(1920, np.float32)
        frame = InputFrame(1, pcm, complete_at=0.08 * number, speaking=number < 10, silent=False, chunk=0)
        output = RowOutput(
            audio=None, text=token, next_text=token, healthy=True, heads=(pause, 0.0, 0.0, 0.0)
        )
        state.deliver(output, Ready(key=1, frame=frame), now=0.08 * number, wall_s=1000.0, backlog_s=0.0)
    return told


def test_half_a_second_of_silence_is_foretold_once_and_before_the_end() -> None:
    told = hear([*SPEECH, *[(PADDING, 0.9)] * 30])
    pauses = [event for event in told if isinstance(event, UserPaused)]
    assert [(pause.horizon_s, pause.probability, pause.frame) for pause in pauses] == [(0.5, 0.9, 12)]
    [said] = [event for event in told if isinstance(event, UserSaid)]
    assert said.text == "the" and said.frame > pauses[0].frame


def test_a_single_frame_in_the_middle_of_speech_is_no_pause() -> None:
    told = hear([*SPEECH, (PADDING, 0.9), *[(PADDING, 0.1)] * 3])
    assert not [event for event in told if isinstance(event, UserPaused)]


def test_a_call_begins_with_the_silence_that_the_model_wants() -> None:
    frames = call(SessionConfig(), []).opening()
    assert all(isinstance(frame, PromptFrame) and not frame.of_prompt for frame in frames)
    assert [frame.hears_silence for frame in frames if isinstance(frame, PromptFrame)] == [False, *[True] * 3]


@pytest.mark.parametrize("config", [SessionConfig(greet=True), SessionConfig(role="a clerk")])
def test_what_is_for_a_model_that_speaks_is_refused(config: SessionConfig) -> None:
    with pytest.raises(InputError, match="only hears"):
        call(config, [])
