"""The exchanges that `tiny` knows, its greeting and its default answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, cast


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question that the model knows, and what it says to it."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A question whose answer is looked up: the model asks for it, and says what it is given.

    `answers` are templates of what that may be, see `world.filled`.
    """

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """What the model says by itself: `exchanges`, a `greeting`, and `default` for anything else; and the
    questions for which it hands over (`lookups`)."""

    exchanges: tuple[Exchange, ...]
    greeting: str
    default: str
    lookups: tuple[Lookup, ...] = ()

    @property
    def spoken(self) -> tuple[str, ...]:
        """Every text the bot can say: the answers in order, then the default answer, then the greeting."""
        return (*(exchange.answer for exchange in self.exchanges), self.default, self.greeting)


def load_phrases() -> Phrases:
    """The phrases shipped with the built-in model."""
    folder = resources.files("moshi_agent") / "assets" / "tiny"
    pairs = cast("list[dict[str, str]]", json.loads((folder / "exchanges.json").read_text()))
    single = cast("dict[str, str]", json.loads((folder / "phrases.json").read_text()))
    exchanges = tuple(Exchange(question=pair["question"], answer=pair["answer"]) for pair in pairs)
    return Phrases(
        exchanges=exchanges, greeting=single["greeting"], default=single["default"], lookups=_lookups(folder)
    )


def _lookups(folder: Traversable) -> tuple[Lookup, ...]:
    rows = cast("list[dict[str, Any]]", json.loads((folder / "lookups.json").read_text()))
    return tuple(Lookup(question=row["question"], answers=tuple(row["answers"])) for row in rows)


def plain(text: str) -> str:
    """`text` in lower case without punctuation: two texts that sound the same compare equal."""
    return " ".join("".join(c if c.isalnum() else "" if c == "'" else " " for c in text.lower()).split())
