"""`hold`, `say(at_once=, alone=)` and `SayHeard`: when the bot may speak of its own, and when it is heard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moshi_agent import (
    Event,
    InputError,
    SamplingConfig,
    SayFinished,
    SayHeard,
    Session,
    SessionConfig,
    TextToken,
)
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.snapshot import unpack_snapshot
from moshi_agent.models.lm import LMModel
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, audio_of, kinds_of, taken
from tests.small_models import small_lm_config

OWN_WORD_FRAMES = 8  # a word of its own comes to its end
VARIED = SamplingConfig(temp=1.0, temp_text=1.5, top_k_text=50)
ANSWER = "You are very welcome."


def go_on(core: SteppedCore, session: Session, frames: int) -> list[Event]:
    """What is told of so many frames in which the user is silent."""
    session.push(np.concatenate([SILENCE] * frames))
    core.settle()
    return taken(session)


def text_frames(events: list[Event]) -> list[int]:
    return [event.frame for event in kinds_of(events, TextToken)]


@pytest.fixture
def core(small_checkpoint: Checkpoint) -> SteppedCore:
    """A core of a model that writes any piece of the tokenizer, and a lot."""
    return SteppedCore(writing(small_checkpoint))


def writing(small_checkpoint: Checkpoint) -> Checkpoint:
    torch.manual_seed(0)
    lm = LMModel(replace(small_lm_config(), text_card=400))
    lm.init_weights()
    lm.eval().pack("float32")
    return replace(small_checkpoint, lm=lm)


def call(core: SteppedCore, sampling: SamplingConfig | None = VARIED) -> Session:
    return core.session(SessionConfig(sampling=sampling, seed=5, live=False, digital_silence=False))


def test_a_held_bot_writes_nothing_until_the_time_is_over(core: SteppedCore) -> None:
    """The model of random weights writes all the time; its word of its own comes to its end."""
    session = call(core)
    assert len(text_frames(go_on(core, session, 20))) > 10
    assert session.hold(30 * FRAME_S).result(1) is None
    held = text_frames(go_on(core, session, 30))
    assert all(frame < 20 + OWN_WORD_FRAMES for frame in held)
    assert len(text_frames(go_on(core, session, 20))) > 10


def test_a_hold_ends_when_it_is_released(core: SteppedCore) -> None:
    session = call(core)
    session.hold(60.0)
    assert len(text_frames(go_on(core, session, 20))) <= OWN_WORD_FRAMES
    assert session.release().result(1) is None
    assert len(text_frames(go_on(core, session, 10))) > 5


@pytest.mark.parametrize("seconds", [-1.0, 3601.0, float("nan"), float("inf")])
def test_a_hold_of_no_length_is_refused_by_itself(core: SteppedCore, seconds: float) -> None:
    session = call(core)
    with pytest.raises(InputError, match="0 to 3600 s"):
        session.hold(seconds).result(1)
    assert len(text_frames(go_on(core, session, 20))) > 10


def test_who_is_held_says_what_it_is_told_and_is_then_free(checkpoint: Checkpoint) -> None:
    core = SteppedCore(checkpoint, capacity=1)
    session = call(core, sampling=None)
    session.hold(60.0)
    session.say(ANSWER)
    events = go_on(core, session, 60)
    assert "".join(e.text for e in events if isinstance(e, TextToken)).strip().startswith(ANSWER)
    saved = unpack_snapshot(_saved(core, session)).call["hold"]
    assert saved["held_frames"] == 0


def _saved(core: SteppedCore, session: Session) -> bytes:
    reply = session.take_snapshot()
    core.settle()
    return reply.result(20)


def test_at_once_is_in_the_next_frame(checkpoint: Checkpoint) -> None:
    """In a silence; else the model begins soon, since it is told ahead."""
    first: dict[bool, int] = {}
    for at_once in (False, True):
        core = SteppedCore(checkpoint, capacity=1)
        session = call(core, sampling=None)
        go_on(core, session, 10)
        session.say(ANSWER, at_once=at_once)
        first[at_once] = text_frames(go_on(core, session, 40))[0] - 10
    assert first[True] == 0
    assert 0 < first[False] <= 5


def test_alone_is_followed_by_a_second_of_nothing(core: SteppedCore, small_checkpoint: Checkpoint) -> None:
    """Of a model that would never stop, and in a copy of the conversation alike."""
    session = call(core)
    session.say("hello there", at_once=True, alone=True)
    events: list[Event] = []
    while not kinds_of(events, SayFinished):
        events += go_on(core, session, 1)
    end = kinds_of(events, SayFinished)[0].frame
    elsewhere = SteppedCore(writing(small_checkpoint))
    copy = elsewhere.session(SessionConfig(live=False, digital_silence=False), resume=_saved(core, session))
    after = go_on(core, session, 80)
    again = go_on(elsewhere, copy, 80)
    assert np.array_equal(audio_of(after), audio_of(again))
    assert text_frames(after) == text_frames(again)
    begins = text_frames(after)[0] - end
    assert 13 < begins <= 15 + 50, "a second, after at most four of sound"


def test_a_user_who_speaks_ends_the_silence_after_it(
    checkpoint: Checkpoint, thanks: NDArray[np.float32]
) -> None:
    core = SteppedCore(checkpoint, capacity=1)
    session = call(core, sampling=None)
    session.say(ANSWER, at_once=True, alone=True)
    events: list[Event] = []
    while not kinds_of(events, SayFinished):
        events += go_on(core, session, 1)
    assert unpack_snapshot(_saved(core, session)).call["hold"]["alone_frames"] > 0
    session.push(thanks[: 10 * 1920])
    core.settle()
    assert unpack_snapshot(_saved(core, session)).call["hold"]["alone_frames"] == 0


def test_a_sentence_is_heard_after_it_is_written(checkpoint: Checkpoint) -> None:
    """When the sound of its last word is over, each once and in order."""
    core = SteppedCore(checkpoint, capacity=1)
    session = core.session(SessionConfig(seed=5, live=False))
    for text in (ANSWER, "Goodbye, and have a wonderful day."):
        session.say(text, at_once=True, alone=True)
    events = go_on(core, session, 160)
    written = [(e.text, e.frame) for e in events if isinstance(e, SayFinished)]
    heard = [(e.text, e.frame) for e in events if isinstance(e, SayHeard)]
    assert [text for text, _ in heard] == [text for text, _ in written] and len(heard) == 2
    sound = np.abs(audio_of(events)).reshape(-1, 1920).max(1)
    for (_, end), (_, over) in zip(written, heard, strict=True):
        assert sound[end : over - 3].any(), "it is still spoken when it is written"
        assert not sound[over]
    assert not sound[heard[1][1] :].any()
