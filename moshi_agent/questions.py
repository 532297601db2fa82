"""The sample questions that ship with the package, spoken, for the built-in model to answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moshi_agent.errors import InputError

_FOLDER = Path(__file__).parent / "assets" / "questions"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Names a sample question: what is said, and the audio file in which it is."""

    text: str
    path: Path


def sample_questions() -> list[Question]:
    """Lists the sample questions, in the order of the index."""
    entries = json.loads((_FOLDER / "index.json").read_text(encoding="utf-8"))
    return [Question(text=entry["text"], path=_FOLDER / entry["file"]) for entry in entries]


def find_question(wanted: str, questions: Sequence[Question]) -> Question:
    """Finds the question with this number, counted from 1, or the only one with these words in it.

    Raises:
        InputError: there is none, or more than one.
    """
    if wanted.isdecimal():
        if not 1 <= int(wanted) <= len(questions):
            raise InputError(f"there is no sample question {wanted}: 1 to {len(questions)} are accepted")
        return questions[int(wanted) - 1]
    same = [question for question in questions if _plain(question.text) == _plain(wanted)]
    found = same or [question for question in questions if _plain(wanted) in _plain(question.text)]
    if len(found) != 1:
        count = "no sample question has" if not found else f"{len(found)} sample questions have"
        raise InputError(f"{count} {wanted!r} in it; --list-questions shows all {len(questions)}")
    return found[0]


def _plain(text: str) -> str:
    """Words only, so that case and punctuation need not be typed as they are written."""
    kept = (letter if letter.isalnum() or letter in "'\u2019" else " " for letter in text.casefold())
    return " ".join("".join(kept).replace("\u2019", "'").split())
