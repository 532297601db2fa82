"""The model's inner monologue as words with times."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

_WORD_START = "\u2581"  # how sentencepiece marks the beginning of a word
_LONGEST_WORD_S = 1.0


class Tokenizer(Protocol):
    """What a transcript needs of a sentencepiece model."""

    def IdToPiece(self, id: int) -> str: ...  # noqa: N802

    def IsControl(self, id: int) -> bool: ...  # noqa: N802

    def IsUnknown(self, id: int) -> bool: ...  # noqa: N802

    def GetPieceSize(self) -> int: ...  # noqa: N802


@dataclass(frozen=True)
class Word:
    """A word and when it is said, in seconds from the first frame."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class _Piece:
    text: str  # a leading space begins a word
    start: float


class Transcript:
    """Collects text tokens, one a frame, and tells the words they make.

    Args:
        tokenizer: a sentencepiece model, or None for a checkpoint without one; words are then empty.
        frame_rate: frames a second.
        delay_s: how much later than the audio the text stream runs.
    """

    def __init__(self, tokenizer: Tokenizer | None, frame_rate: float, delay_s: float = 0.0) -> None:
        self._tokenizer = tokenizer
        self._frame_rate = frame_rate
        self._delay_s = delay_s
        self._pieces: list[_Piece] = []

    def add(self, token: int, frame: int) -> str:
        """Takes the token of a frame. Returns the text that begins there, "" for padding and the like."""
        piece = self._piece(token)
        if piece:
            self._pieces.append(_Piece(piece, max(0.0, frame / self._frame_rate - self._delay_s)))
        return piece

    def _piece(self, token: int) -> str:
        tokenizer = self._tokenizer
        if tokenizer is None or not 0 <= token < tokenizer.GetPieceSize():
            return ""
        if tokenizer.IsControl(token) or tokenizer.IsUnknown(token):
            return ""  # padding, end of padding, begin and end of text
        return tokenizer.IdToPiece(token).replace(_WORD_START, " ")

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self._pieces).strip()

    @property
    def words(self) -> list[Word]:
        """A word lasts until the next one begins, a second at most."""
        words = _grouped(self._pieces)
        ends = [*(start for _, start in words[1:]), math.inf]
        return [
            Word(text, round(start, 2), round(min(following, start + _LONGEST_WORD_S), 2))
            for (text, start), following in zip(words, ends, strict=False)
        ]


def _grouped(pieces: Iterable[_Piece]) -> list[tuple[str, float]]:
    """Words and their starts: a piece without a leading space goes on with the word before it."""
    words: list[tuple[str, float]] = []
    for piece in pieces:
        if piece.text.startswith(" ") or not words:
            words.append((piece.text.strip(), piece.start))  # empty where the space is a piece of its own
        else:
            text, start = words[-1]
            words[-1] = (text + piece.text, start)
    return [word for word in words if word[0]]
