"""Numbers with their nouns, for what people read."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Writes a number and its noun: "1 call", "2 calls". For nouns whose plural ends in -s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
