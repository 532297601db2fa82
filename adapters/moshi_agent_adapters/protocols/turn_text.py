"""The text of one turn, piece by piece: it begins with a word, and not with the space before it."""

from __future__ import annotations


class TurnText:
    """Collects the pieces of a turn."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, piece: str) -> str:
        """Returns what a piece adds to the turn, "" where that is nothing."""
        piece = piece if self.text else piece.lstrip()
        self.text += piece
        return piece
