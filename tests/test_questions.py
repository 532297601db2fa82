"""A sample question is found by its number or by its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from moshi_agent.errors import InputError
from moshi_agent.questions import Question, find_question

QUESTIONS = [
    Question(text=text, path=Path(f"{text}.wav"))
    for text in ("Hello.", "What's your name?", "Tell me a joke.", "Tell me another joke.", "Hello again.")
]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("1", "Hello."),
        ("5", "Hello again."),
        ("what\u2019s your name", "What's your name?"),
        ("ANOTHER  joke!", "Tell me another joke."),
        ("hello", "Hello."),  # all of it, although another question has it too
    ],
)
def test_a_question_is_found(wanted: str, text: str) -> None:
    assert find_question(wanted, QUESTIONS).text == text


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("0", "1 to 5 are accepted"),
        ("6", "1 to 5 are accepted"),
        ("weather", "no sample question has 'weather'"),
        ("joke", "2 sample questions have 'joke'"),
    ],
)
def test_what_is_none_or_several_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_question(wanted, QUESTIONS)
