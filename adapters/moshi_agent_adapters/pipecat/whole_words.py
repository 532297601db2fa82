"""Pieces of text joined into words, for those who put a space between what they are given."""

from __future__ import annotations


class WholeWords:
    """Holds a word back until it is complete, which is a frame after its last piece.

    A leading space begins a word, and its pieces come in frames that follow one another.
    """

    def __init__(self) -> None:
        self._text = ""
        self._frame = 0  # of its last piece

    def add(self, piece: str, frame: int) -> str:
        """Takes a piece. Returns the word before it if this one begins another, else ""."""
        complete = self.take() if piece.startswith(" ") else ""
        self._text += piece
        self._frame = frame
        return complete

    def complete_by(self, frame: int) -> str:
        """Returns the word, if nothing has gone on with it in this frame, else ""."""
        return self.take() if frame > self._frame else ""

    def take(self) -> str:
        """Returns the word as far as it has come."""
        text, self._text = self._text, ""
        return text
