"""`say`: the bot speaks the sentence it was given, word for word and in its own time."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from moshi_agent import BacklogFull, Engine, Event, InputError, SayFinished, SessionConfig, TextToken, Word
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.questions import find_question, sample_questions
from moshi_agent.text import sentences
from moshi_agent.text.pieces import Tokenizer, Words, word_pieces
from moshi_agent.training.tiny.evaluation.matching import Matcher
from tests.engine.stepped_core import SteppedCore, audio_of, kinds_of, taken

ANSWERS = {  # of `exchanges.json`, that the model goes on with by itself once it has begun
    "Good night, sleep well.": "Good night, and sweet dreams.",
    "Goodbye for now.": "Goodbye, and have a wonderful day.",
}
CONFIG = SessionConfig(seed=2, live=False, tail_ms=800)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextToken)).strip()


def loud_part(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    loud = np.flatnonzero(np.abs(audio) > 0.01)
    return audio[loud[0] : loud[-1]]


@dataclass
class Spoken:
    answered: list[list[Event]]  # each answer, to its question
    said: list[Event]  # one after the other, into silence

    def sound(self, index: int) -> NDArray[np.float32]:
        """Of one of those that were said: up to where the next one begins."""
        texts = [event.frame for event in kinds_of(self.said, TextToken)]
        begins = [0, min(frame for frame in texts if frame > self.ends[0]), 10_000]
        of_it = [event for event in self.said if begins[index] <= event.frame < begins[index + 1]]
        return loud_part(audio_of(of_it))

    @property
    def ends(self) -> list[int]:
        return [event.frame for event in kinds_of(self.said, SayFinished)]


@pytest.fixture(scope="module")
def spoken(checkpoint: Checkpoint) -> Spoken:
    core = SteppedCore(checkpoint, capacity=3)
    asked = [core.session(CONFIG) for _ in ANSWERS]
    told = core.session(CONFIG)
    for session, question in zip(asked, ANSWERS, strict=True):
        session.push(sf.read(find_question(question, sample_questions()).path, dtype="float32")[0])
    for answer in ANSWERS.values():
        assert told.say(answer).result(1) is None
    for session in (*asked, told):
        session.push(np.zeros(4 * 1920, np.float32))
        session.finish()
    core.settle()
    return Spoken([taken(session) for session in asked], taken(told))


def test_the_text_comes_out_word_for_word_one_sentence_after_the_other(spoken: Spoken) -> None:
    wanted = " ".join(ANSWERS.values())
    assert text_of(spoken.said) == wanted
    assert [word.text for word in kinds_of(spoken.said, Word) if isinstance(word, Word)] == wanted.split()


def test_it_is_told_when_all_text_of_a_sentence_is_out(spoken: Spoken) -> None:
    finished = kinds_of(spoken.said, SayFinished)
    assert [e.text for e in finished if isinstance(e, SayFinished)] == list(ANSWERS.values())
    stops = [e.frame for e in kinds_of(spoken.said, TextToken) if isinstance(e, TextToken) and e.text == "."]
    assert spoken.ends == stops


@pytest.mark.parametrize("index", range(len(ANSWERS)))
def test_the_sound_is_that_of_the_answer(spoken: Spoken, index: int) -> None:
    assert text_of(spoken.answered[index]) == list(ANSWERS.values())[index]
    references = [loud_part(audio_of(events)) for events in spoken.answered]
    assert Matcher(references).nearest(spoken.sound(index)) == index


@pytest.mark.parametrize("index", range(len(ANSWERS)))
def test_the_model_chooses_when(spoken: Spoken, index: int) -> None:
    """Its pace is that of its own answer: not one piece a frame, nor one whenever patience ends."""
    own, said = len(loud_part(audio_of(spoken.answered[index]))), len(spoken.sound(index))
    assert 0.6 < said / own < 1.6


def test_what_cannot_be_said_is_refused(core: SteppedCore) -> None:
    session = core.session()
    for text in ("", " \n", "漢字", "hello 漢"):
        with pytest.raises(InputError, match="cannot be said"):
            session.say(text).result(1)
    with pytest.raises(InputError, match="say less"):
        session.say("one two three " * 2000).result(1)
    assert session.is_open


def test_a_sentence_is_tokenized_by_who_asks_and_not_by_the_thread_of_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long one takes milliseconds, which nobody's frames are to wait for."""
    threads: list[str] = []

    def noting(tokenizer: Tokenizer, text: str) -> Words:
        threads.append(threading.current_thread().name)
        return word_pieces(tokenizer, text)

    monkeypatch.setattr(sentences, "word_pieces", noting)
    config = SessionConfig(live=False, references="say")
    engine = Engine.load("tiny", capacity=1, admit_by_time=False, shared=False)
    with engine, engine.session(config) as session:
        session.say("hello there").result(20)
        assert session.refer("Here it is.").result(20)
        with pytest.raises(BacklogFull, match="say less"):
            session.say("two " * 4000).result(20)
    assert threads == [threading.current_thread().name] * 2
