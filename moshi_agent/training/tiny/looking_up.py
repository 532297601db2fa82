"""What the bot is told to say in made-up calls, as where a question is looked up.

In frames of 80 ms: where an answer's text would begin, the model writes `WANTED`. `ANSWER_AFTER` frames after
something was found it is told to say it, if anything is found at all. What it is told stands beside the text,
in a stream of its own: in every frame the piece that is to be written next, until it has been.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moshi_agent.training.tiny.answers import Tokens
from moshi_agent.training.tiny.corpus import Utterance
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.tokenizer import END_OF_PADDING, PADDING

ANSWER_AFTER = 4  # frames from when something is found to the beginning of its sound
MOST_AHEAD = 3  # frames from when the bot is told to say something to the first piece of it


@dataclass(frozen=True, kw_only=True)
class LookedUp:
    """A question and what may be found."""

    question: str
    asked: list[Utterance] = field(repr=False)
    found: list[Utterance] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class LookupMix:
    """How a look-up goes."""

    wait: tuple[int, int] = (3, 50)  # frames until something is found
    never_share: float = 0.1
    filler_share: float = 0.3  # in which the bot is told to say something meanwhile
    filler_after: tuple[int, int] = (2, 12)  # frames
    any_share: float = 0.3  # in which what is found has nothing to do with the question
    given_up: tuple[float, float] = (1.0, 5.0)  # seconds until the caller goes on if nothing is found

    def draw_wait(self, rng: Rng) -> int | None:
        """Frames until something is found, mostly few; None where nothing is."""
        if rng.random() < self.never_share:
            return None
        first, last = self.wait
        return first + int((last - first) * rng.random() ** 1.5)


def write_ahead(ahead: Tokens, text: Tokens, first: int, frame: int) -> None:
    """Writes ahead which piece the bot is told to say next, from `frame` on, until all have been written.

    Both [frames]; the sentence's first piece stands in `first` or later, and nothing else after the sentence.
    """
    places = first + np.flatnonzero(~np.isin(text[first:], (PADDING, END_OF_PADDING)))
    frame = max(frame, 1 + int(np.flatnonzero(ahead != PADDING).max(initial=-1)))  # what it is still saying
    for place in places[::-1]:
        ahead[frame : place + 1] = text[place]


def no_references(frames: int) -> Tokens:
    """The stream in which nothing is found, int64 [frames]."""
    return np.full(frames, PADDING, np.int64)
