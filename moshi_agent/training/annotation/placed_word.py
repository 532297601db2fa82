"""Says what a speech recogniser is here: speech in, words with their times out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from moshi_agent.audio.framing import Samples


class PlacedWord(NamedTuple):
    """Holds a word and when it is said, in seconds."""

    word: str
    start_s: float
    end_s: float


class Recogniser(Protocol):
    """Finds words with their times: any function with this signature will do."""

    def __call__(self, samples: Samples, /) -> Iterable[tuple[str, float, float]]:
        """The words in mono speech, float32 [N] at 24 kHz, each with its start and end in seconds."""
        ...
