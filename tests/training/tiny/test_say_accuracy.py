"""What the bot says when it is told to, measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from moshi_agent import Conversation, Engine, load_checkpoint
from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import frames_of
from moshi_agent.questions import find_question, sample_questions
from moshi_agent.training.tiny.answers import Answer
from moshi_agent.training.tiny.evaluation.say_accuracy import report, score, tell

QUESTIONS = ("How much is two plus two?", "Count to five.", "Good night, sleep well.")


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """What the built-in model answers when it is asked."""
    checkpoint = load_checkpoint("tiny", pack="auto")
    found: list[Answer] = []
    for question in QUESTIONS:
        conversation = Conversation(checkpoint, greedy=True)
        asked = read_audio(find_question(question, sample_questions()).path)
        audio = [reply.audio for reply in conversation.stream(frames_of(asked, tail_s=4.0))]
        found.append(
            Answer(text=conversation.text, audio=np.concatenate(audio), text_tokens=np.zeros(0, np.int64))
        )
    return found


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load("tiny", shared=False, capacity=len(QUESTIONS), admit_by_time=False) as engine:
        yield engine


def test_what_sounds_as_when_it_is_asked_is_right(engine: Engine, answers: list[Answer]) -> None:
    scores = score(answers, tell(engine, [answer.text for answer in answers], seed=1))
    assert [score.text for score in scores] == [score.heard for score in scores]
    assert report(scores) == "told to say one of its texts: 3 of 3 sound right"


def test_another_sound_or_another_level_is_not(engine: Engine, answers: list[Answer]) -> None:
    first, second, third = answers
    mixed_up = [replace(first, audio=second.audio), replace(second, audio=first.audio)]
    wanted = [*mixed_up, replace(third, audio=0.3 * third.audio)]
    scores = score(wanted, tell(engine, [answer.text for answer in wanted], seed=1))
    assert not any(score.right for score in scores)
    assert scores[0].heard == second.text and scores[2].heard == third.text
    assert scores[2].louder_db > 6
    assert report(scores).count("\n") == 3
