"""How a conversation asks for something to be looked up, and what is made of the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from moshi_agent.errors import ConfigError
from moshi_agent.events import Turn
from moshi_agent.text.pieces import ends_sentence

# As the checkpoint was trained to take it, or as a sentence to be said, whatever the checkpoint.
ReferenceUse = Literal["as_trained", "say"]
ReferOutcome = Literal["taken", "superseded", "late", "refused"]

_LONGEST_S = 3600.0
_MOST_WORDS = 1000


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    """Sets up when something is looked up in a conversation, and what happens until it is found."""

    by_model: bool = True  # by the trained token of a checkpoint that has one
    every_words: int | None = (
        None  # of the user, after each so many: while he speaks, and when he has stopped
    )
    when: Callable[[Sequence[Turn]], bool] | None = None  # asked whenever the user has said something
    # The bot is silent until the user's words are written down, and it is known whether there is something to
    # be looked up. None: where `when` decides that.
    awaits_words: bool | None = None
    hold: bool | None = None  # the bot is silent meanwhile; None: except where it was trained to lead in
    filler: str | None = None  # what the bot says meanwhile, such as "One moment, please."
    filler_after_s: float = 0.5  # of waiting, that an answer without it may take
    apology: str | None = None  # what the bot says where no answer comes
    timeout_s: float = 10.0  # of the conversation's own time, after which an answer is not wanted any more
    most_words: int = 60  # of an answer; a longer one ends with the last whole sentence before

    def __post_init__(self) -> None:
        if self.every_words is not None and self.every_words < 1:
            raise ConfigError(f"every_words={self.every_words}; accepted: 1 or more, or None")
        if not 1 <= self.most_words <= _MOST_WORDS:
            raise ConfigError(f"most_words={self.most_words}; accepted: 1 to {_MOST_WORDS}")
        if not (math.isfinite(self.timeout_s) and 0 < self.timeout_s <= _LONGEST_S):
            raise ConfigError(f"timeout_s={self.timeout_s}; accepted: above 0, to {_LONGEST_S:g}")
        if not 0 <= self.filler_after_s <= _LONGEST_S:
            raise ConfigError(f"filler_after_s={self.filler_after_s}; accepted: 0 to {_LONGEST_S:g}")


@dataclass(frozen=True, slots=True)
class Referral:
    """Tells what has become of a text that `Session.refer` was given."""

    outcome: ReferOutcome
    reason: str = ""  # where it was not taken

    def __bool__(self) -> bool:
        return self.outcome == "taken"


def shortened(text: str, most_words: int) -> str:
    """Returns a text of so many words at most; it ends with a sentence if one ends in their second half."""
    words = text.split()
    if len(words) <= most_words:
        return text
    words = words[:most_words]
    ends = [place for place, word in enumerate(words, 1) if ends_sentence(word) and 2 * place >= most_words]
    return " ".join(words[: ends[-1]] if ends else words)
