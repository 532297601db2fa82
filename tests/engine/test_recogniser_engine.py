"""An engine that is a recogniser alone: many speakers, their words, and no audio."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from moshi_agent import (
    ConfigError,
    Ended,
    Engine,
    Event,
    InputError,
    Session,
    SessionConfig,
    UserPaused,
    UserSaid,
    UserStarted,
    UserStopped,
    UserText,
    UserWord,
)
from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from tests.recogniser_model import write_sparing_checkpoint

QUESTIONS = ("What is your name?", "Thank you very much.", "Count to five.", "Tell me a joke.")
FILE = SessionConfig(live=False, tail_ms=3000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    options = {"recogniser": True, "capacity": 4, "admit_by_time": False, "shared": False}
    with Engine.load(str(folder), device="cpu", **options) as engine:
        yield engine


def _speech(text: str) -> np.ndarray:
    return read_audio(find_question(text, sample_questions()).path)


def _hear(engine: Engine, text: str) -> list[Event]:
    with engine.session(FILE) as session:
        session.push(_speech(text))
        session.finish()
        return list(session)


def _waiting(session: Session) -> Iterator[Event]:
    """The events that are there, of a session that goes on."""
    try:
        while (event := session.next_event(timeout_s=0.2)) is not None:
            yield event
    except TimeoutError:
        pass


def _words(events: list[Event]) -> list[tuple[str, float, float]]:
    return [(event.text, event.start, event.end) for event in events if isinstance(event, UserWord)]


def test_four_at_once_are_written_down_as_by_the_same_recogniser_beside_a_model(
    engine: Engine, folder: Path
) -> None:
    with ThreadPoolExecutor(4) as threads:
        heard = list(threads.map(lambda text: _hear(engine, text), QUESTIONS))
    options = {"transcriber": str(folder), "capacity": 1, "admit_by_time": False, "shared": False}
    with Engine.load("tiny", device="cpu", **options) as dialogue:
        for text, events in zip(QUESTIONS, heard, strict=True):
            beside = _words(_hear(dialogue, text))
            words = _words(events)[:-1]  # the last one ends with the session, which is over sooner here
            assert len(words) > 3
            assert beside[: len(words)] == words


def test_a_session_tells_of_its_speaker_and_of_nobody_else(engine: Engine) -> None:
    events = _hear(engine, "What is your name?")
    kinds = {type(event) for event in events}
    assert {UserStarted, UserStopped, UserText, UserWord, UserSaid, UserPaused, Ended} <= kinds
    assert not kinds & {*[kind for kind in kinds if kind.__name__.startswith(("Bot", "Audio", "Text"))]}
    said = " ".join(event.text for event in events if isinstance(event, UserSaid))
    assert said.split() == [event.text for event in events if isinstance(event, UserWord)]
    assert isinstance(events[-1], Ended) and events[-1].reason == "finished"
    assert engine.model.kind == "recogniser" and engine.model.sampling.greedy


def test_what_is_for_a_model_that_speaks_is_refused(engine: Engine) -> None:
    with engine.session(FILE) as session:
        with pytest.raises(InputError, match="says nothing"):
            session.say("Hello.").result()
        with pytest.raises(InputError, match="only hears"), engine.session(SessionConfig(greet=True)):
            pass
        session.push(np.zeros(1920, np.float32))
        session.finish()
        assert session.wait(60)


def test_either_kind_of_checkpoint_is_refused_where_the_other_is_asked_for(folder: Path) -> None:
    with pytest.raises(ConfigError, match="recogniser=True"):
        Engine.load(str(folder), shared=False)
    with pytest.raises(ConfigError, match="cannot transcribe"):
        Engine.load("tiny", recogniser=True, shared=False)
    with pytest.raises(ConfigError, match="either"):
        Engine.load(str(folder), recogniser=True, transcriber=str(folder), shared=False)


def test_a_session_goes_on_from_its_snapshot(engine: Engine) -> None:
    """Whole, and in two halves of which the second one begins with the snapshot of the first."""
    whole = [event.text for event in _hear(engine, QUESTIONS[0]) if isinstance(event, UserText)]
    speech = _speech(QUESTIONS[0])
    half = 1920 * 12
    with engine.session(FILE) as first:
        first.push(speech[:half])
        while first.backlog_s:
            time.sleep(0.01)
        snapshot = first.take_snapshot().result()
        texts = [event.text for event in _waiting(first) if isinstance(event, UserText)]
    with engine.session(FILE, resume=snapshot) as second:
        second.push(speech[half:])
        second.finish()
        texts += [event.text for event in second if isinstance(event, UserText)]
    assert texts == whole
