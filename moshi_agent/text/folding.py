"""Brings text as people and language models write it to the characters that a tokenizer has pieces for."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

# What looks alike and is read alike; a tokenizer that has pieces for the left side keeps it.
_PLAIN = {
    "\u2018": "'",
    "\u2019": "'",
    "\u201a": "'",
    "\u201b": "'",
    "\u2032": "'",
    "\u2035": "'",
    "\u00b4": "'",
    "\u02b9": "'",
    "\u02bb": "'",
    "\u02bc": "'",
    "\u02bd": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u201e": '"',
    "\u201f": '"',
    "\u00ab": '"',
    "\u00bb": '"',
    "\u2026": "...",
    "\u00df": "ss",
    "\u00e6": "ae",
    "\u00c6": "Ae",
    "\u0153": "oe",
    "\u00f8": "o",
    "\u00d8": "O",
    "\u0142": "l",
    "\u0141": "L",
    "\u0111": "d",
    "\u0110": "D",
    "\u00f0": "d",
    "\u00d0": "D",
    "\u00fe": "th",
    "\u00de": "Th",
    "\u0131": "i",
}
_ZERO_WIDTH_SPACE = "\u200b"
_WITHIN_WORDS = (
    "Ps",
    "Pe",
    "Pi",
    "Pf",
    "Mn",
    "Mc",
    "Me",
    "Cf",
    "Cc",
    "Cn",
    "Co",
    "Sk",
)  # brackets, quotes, marks
_ROUND_WORDS = "\"'*~"


def fold(text: str, is_known: Callable[[str], bool]) -> str:
    """Returns the text with every character that is not known replaced by what reads alike, or left out.

    Typographic quotes, ligatures and accents become plain ones; quotes, brackets and marks without width are
    left out; dashes, emoji and other signs become spaces, since they part words. Letters and digits for which
    nothing plain is there stay.

    Args:
        is_known: whether a character can stand in the text.
    """
    return "".join(
        one if one.isspace() or is_known(one) else _folded(one, is_known)
        for one in unicodedata.normalize("NFC", text)
    )


def _folded(character: str, is_known: Callable[[str], bool]) -> str:
    plain = _PLAIN.get(character) or _without_marks(character)
    if plain != character:
        return "".join(one if is_known(one) else _left_out(one) for one in plain)
    return _left_out(character)


def _without_marks(character: str) -> str:
    """The letters of a ligature, or a letter without its accents."""
    parts = unicodedata.normalize("NFKD", character)
    plain = "".join(one for one in parts if not unicodedata.combining(one))
    is_raised = unicodedata.decomposition(character).startswith(("<super>", "<fraction>"))
    return f" {plain} " if is_raised and plain[:1].isdigit() else plain  # 10² is not 102


def _left_out(character: str) -> str:
    """A space for what parts words, nothing for other signs, and the character itself where it is read."""
    category = unicodedata.category(character)
    if category[0] in "LN":
        return character
    if character == _ZERO_WIDTH_SPACE:
        return " "
    return "" if category in _WITHIN_WORDS or character in _ROUND_WORDS else " "
