"""The model's inner monologue as words with times."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from moshi_agent.text.pieces import PieceReader, Tokenizer, split_words

LONGEST_WORD_S = 1.0


@dataclass(frozen=True)
class TimedWord:
    """Holds a word and when it is said, in seconds from the first frame."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class _Piece:
    text: str  # a space begins a word
    start: float


class Transcript:
    """Collects text tokens, one a frame, and tells the words they make.

    Args:
        tokenizer: a sentencepiece model, or None for a checkpoint without one; words are then empty.
        frame_rate: frames a second.
        delay_s: how much later than the audio the text stream runs.
    """

    def __init__(self, tokenizer: Tokenizer | None, frame_rate: float, delay_s: float = 0.0) -> None:
        self._reader = PieceReader(tokenizer)
        self._frame_rate = frame_rate
        self._delay_s = delay_s
        self._pieces: list[_Piece] = []

    def add(self, token: int, frame: int) -> str:
        """Takes the token of a frame. Returns the text that begins there, as `PieceReader.read`."""
        text = self._reader.read(token)
        if text:
            self._pieces.append(_Piece(text, max(0.0, frame / self._frame_rate - self._delay_s)))
        return text

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self._pieces).strip()

    @property
    def words(self) -> list[TimedWord]:
        """Lists the words so far. Each lasts until the next one begins, a second at most."""
        words = _grouped(self._pieces)
        ends = [*(start for _, start in words[1:]), math.inf]
        return [
            TimedWord(text, round(start, 2), round(min(following, start + LONGEST_WORD_S), 2))
            for (text, start), following in zip(words, ends, strict=False)
        ]


def _grouped(pieces: Iterable[_Piece]) -> list[tuple[str, float]]:
    """Words and their starts."""
    words: list[tuple[str, float]] = []
    for piece in pieces:
        continued, begun = split_words(piece.text)
        if continued and words:
            text, start = words.pop()
            words.append((text + continued, start))
        elif continued:
            words.append((continued, piece.start))
        words += [(text, piece.start) for text in begun]
    return [word for word in words if word[0]]
