"""`transcriber=` with a recogniser of the application's own: users are understood with any checkpoint."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from moshi_agent import AskConfig, Event, ReferenceWanted, Session, TextToken, UserSaid, UserWord
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.call.utterances import Utterance, Utterances, check_words
from moshi_agent.errors import InputError
from moshi_agent.questions import find_question, sample_questions
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, kinds_of, taken
from tests.engine.test_lookups import checkpoint_of, config, go_on

QUESTION = "How much is two plus two?"
GRAMMAR = """#JSGF V1.0; grammar questions;
public <question> = what is your name | how much is two plus two | how are you today ;
"""
Transcribe = Callable[[NDArray[np.float32]], Iterable[tuple[str, float, float]]]


def asked(
    checkpoint: Checkpoint, transcribe: Transcribe, asking: AskConfig | None = None
) -> tuple[list[Event], Session, SteppedCore]:
    """What is told of a question, and of what the recogniser has made of it."""
    core = SteppedCore(checkpoint, transcriber=transcribe, capacity=1)
    session = core.session(config(asking))
    session.push(sf.read(find_question(QUESTION, sample_questions()).path, dtype="float32")[0])
    session.push(np.concatenate([SILENCE] * 12))
    core.settle()
    assert core.transcriber is not None
    core.transcriber.stop()
    core.settle()
    return taken(session), session, core


def test_the_words_of_a_recogniser_are_told_at_their_times(small_checkpoint: Checkpoint) -> None:
    heard: list[tuple[int, str]] = []

    def transcribe(samples: NDArray[np.float32]) -> Iterable[tuple[str, float, float]]:
        heard.append((len(samples), threading.current_thread().name))
        return [(" Two", 0.5, 0.9), ("plus", 0.9, 1.0), ("two?", 1.0, 99.0)]

    events, session, _ = asked(small_checkpoint, transcribe)
    [(samples, thread)] = heard
    assert samples % 1920 == 0 and samples > 24_000 and thread.startswith("moshi-transcriber")
    [said] = [event for event in events if isinstance(event, UserSaid)]
    assert said.text == "Two plus two?"
    words = [event for event in events if isinstance(event, UserWord)]
    assert [word.text for word in words] == ["Two", "plus", "two?"]
    assert words[-1].end == pytest.approx(words[0].start - 0.5 + samples / 24_000), "no later than its sound"
    assert "Two plus two?" in [turn.text for turn in session.transcript.turns]


def test_pocketsphinx_with_a_grammar_hears_the_question(small_checkpoint: Checkpoint) -> None:
    sphinx = pytest.importorskip("moshi_agent.training.annotation.sphinx")
    asking = AskConfig(by_model=False, every_words=2)
    events, _, _ = asked(small_checkpoint, sphinx.SphinxRecogniser(grammar=GRAMMAR), asking)
    [said] = [event for event in events if isinstance(event, UserSaid)]
    assert said.text == "how much is two plus two"
    [wanted] = [event for event in events if isinstance(event, ReferenceWanted)]
    assert wanted.by == "words" and wanted.question == said.text


def _fails(samples: NDArray[np.float32]) -> Any:
    raise RuntimeError("out of order")


@pytest.mark.parametrize(
    "transcribe",
    [_fails, lambda samples: [("a", "b", "c")], lambda samples: [(1, 0.0, 1.0)], lambda samples: 5],
)
def test_a_recogniser_that_fails_costs_its_words_alone(
    small_checkpoint: Checkpoint, transcribe: Transcribe, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        events, session, core = asked(small_checkpoint, transcribe)
    assert "the transcriber failed" in caplog.text
    assert not kinds_of(events, UserSaid) and session.is_open
    session.push(SILENCE)
    core.settle()
    assert taken(session)


def test_no_frame_waits_for_a_slow_recogniser(small_checkpoint: Checkpoint) -> None:
    may_go_on = threading.Event()

    def transcribe(samples: NDArray[np.float32]) -> list[tuple[str, float, float]]:
        may_go_on.wait(60)
        return [("late", 0.0, 0.1)]

    core = SteppedCore(small_checkpoint, transcriber=transcribe, capacity=1)
    session = core.session(config())
    session.push(sf.read(find_question(QUESTION, sample_questions()).path, dtype="float32")[0])
    session.push(np.concatenate([SILENCE] * 20))
    core.settle()
    assert session.backlog_s == 0 and not kinds_of(taken(session), UserSaid)
    may_go_on.set()
    end = time.monotonic() + 30
    while not kinds_of(taken(session), UserSaid):
        core.settle()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("decides", [True, False])
def test_the_bot_is_silent_until_it_is_known_what_was_asked(decides: bool) -> None:
    """A rule decides by the words; without one, the bot need not wait for them."""
    may_go_on = threading.Event()

    def transcribe(samples: NDArray[np.float32]) -> list[tuple[str, float, float]]:
        may_go_on.wait(60)
        return [("order", 0.0, 0.1)]

    asking = AskConfig(by_model=False, when=(lambda turns: False) if decides else None)
    core = SteppedCore(checkpoint_of(None), transcriber=transcribe, capacity=1)
    session = core.session(config(asking))

    def texts_of(frames: int, speech: bool = False) -> int:
        return len(kinds_of(go_on(core, session, frames, speech), TextToken))

    assert texts_of(10) > 3, "this model speaks at random"
    texts_of(8, speech=True)
    held = texts_of(15)
    assert (held == 0) == decides
    may_go_on.set()
    while not kinds_of(go_on(core, session, 1), UserSaid):
        time.sleep(0.01)
    texts_of(4)
    assert texts_of(10) > 3, "nothing is to be looked up: the bot says what it has to say"
    session.close()
    core.settle()


def test_an_utterance_goes_from_before_its_voice_to_its_end() -> None:
    utterances = Utterances()
    frames = np.arange(20, dtype=np.float32)[:, None] * np.ones((1, 1920), np.float32)
    cut = [utterances.follow(frame, 8 <= place < 12, place) for place, frame in enumerate(frames)]
    [utterance] = [one for one in cut if one is not None]
    assert (utterance.start_s, len(utterance.samples) // 1920) == (pytest.approx(4 * FRAME_S), 9)
    assert list(utterance.samples[::1920]) == list(range(4, 13))
    assert utterances.is_behind
    utterances.read()
    assert not utterances.is_behind


def test_an_endless_one_is_cut_and_what_nobody_reads_is_left_out() -> None:
    utterances, cut = Utterances(), list[Utterance]()
    for frame in range(375 * 6):
        one = utterances.follow(SILENCE, True, frame)
        cut += [] if one is None else [one]
    assert [len(one.samples) // 1920 for one in cut] == [375] * 4


def test_words_beyond_the_utterance_are_moved_into_it() -> None:
    utterance = Utterance(2.0, np.zeros(24_000, np.float32))
    [word] = check_words([("x", -3.0, 7.0), ("  ", 0.0, 0.1)], utterance)
    assert (word.word, word.start, word.end) == ("x", 2.0, 3.0)
    with pytest.raises(InputError, match="damaged"):
        check_words([("x", float("nan"), 1.0)], utterance)


@pytest.mark.parametrize("spoken", [np.zeros(5, np.float32), np.zeros(1920), "audio"])
def test_a_damaged_utterance_is_refused(spoken: object) -> None:
    with pytest.raises(InputError, match="damaged"):
        Utterances().load({"spoken": spoken})


def test_one_that_was_saved_goes_on() -> None:
    first, again = Utterances(), Utterances()
    assert first.follow(SILENCE, True, 0) is None
    again.load(first.save())
    utterance = again.follow(SILENCE, False, 1)
    assert utterance is not None and len(utterance.samples) == 2 * 1920
