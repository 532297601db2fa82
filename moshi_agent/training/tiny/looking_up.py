"""Questions that are looked up, in made-up calls: what is asked, handed over, waited for, given and said.

In frames of 80 ms: where an answer's text would begin, the model writes `WANTED`. What was found comes as a
stream of tokens beside the text, one in a frame: the initial token of the text, then those of the words.
`ANSWER_AFTER` frames later the model says it, word for word. It may as well never come, or unasked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moshi_agent.training.tiny.answers import Answer, Tokens
from moshi_agent.training.tiny.corpus import Utterance
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.tokenizer import PADDING, VOCABULARY

INITIAL = VOCABULARY  # what every text stream begins with; here, a new reference
ANSWER_AFTER = 4  # frames from the beginning of a reference to that of its sound


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


def give_reference(references: Tokens, answer: Answer, frame: int) -> None:
    """Writes what was found into the stream of references, [frames], from `frame` on."""
    tokens = np.array([INITIAL, *answer.pieces])[: max(len(references) - frame, 0)]
    references[frame : frame + len(tokens)] = tokens


def no_references(frames: int) -> Tokens:
    """The stream in which nothing is found, int64 [frames]."""
    return np.full(frames, PADDING, np.int64)
