"""Tokens of the text stream as the text they write."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from moshi_agent.errors import InputError
from moshi_agent.text.folding import fold
from moshi_agent.text.spoken_signs import write_out

Words = list[list[int]]  # the pieces of each word of a text

_LONGEST_START = 3  # bytes of a character that is not complete
_WORD_START = "\u2581"  # how sentencepiece marks the beginning of a word


class Tokenizer(Protocol):
    """Names what is needed of a sentencepiece model."""

    def encode(self, input: str) -> Any: ...  # list[int]

    def IdToPiece(self, id: int) -> str: ...  # noqa: N802

    def IsByte(self, id: int) -> bool: ...  # noqa: N802

    def IsControl(self, id: int) -> bool: ...  # noqa: N802

    def IsUnknown(self, id: int) -> bool: ...  # noqa: N802

    def GetPieceSize(self) -> int: ...  # noqa: N802


class PieceReader:
    """Reads a stream of text tokens one by one.

    Characters that are no pieces of their own come as pieces of one byte each (`<0xE2>`), to be joined into
    UTF-8: their text is given with the last byte. What is no UTF-8 becomes U+FFFD, as in `bytes.decode`, and
    takes nothing of what follows with it.

    Args:
        tokenizer: a sentencepiece model, or None for a checkpoint without one; nothing is then read.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, token: int) -> str:
        """Reads a token, and returns the text that begins with it; a space begins a word.

        "" for padding and the like, for a token that the model lacks, and within a character.
        """
        tokenizer = self._tokenizer
        if tokenizer is None or not is_text(tokenizer, token):
            return ""
        piece = tokenizer.IdToPiece(token)
        if tokenizer.IsByte(token):
            return self._utf8.decode(bytes([int(piece[3:-1], 16)]))
        return self.flush() + piece.replace(_WORD_START, " ")

    def flush(self) -> str:
        """Gives up waiting for the rest of a character: U+FFFD if there was a part of one."""
        return self._utf8.decode(b"", True)

    @property
    def in_character(self) -> bool:
        """Tells whether a part of a character has been read."""
        return bool(self.save())

    def save(self) -> list[int]:
        """Returns the bytes read of a character that is not complete."""
        return list(self._utf8.getstate()[0])

    def load(self, saved: list[int]) -> None:
        """Takes what `save` returned."""
        if not isinstance(saved, list) or len(saved) > _LONGEST_START:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"damaged: {str(saved)[:40]} begins no character of UTF-8")
        self._utf8.setstate((bytes(saved), 0))


def text_of(tokenizer: Tokenizer | None, tokens: Iterable[int]) -> str:
    """Reads a whole stream of text tokens, and leaves out the space before its first word."""
    reader = PieceReader(tokenizer)
    return ("".join(map(reader.read, tokens)) + reader.flush()).strip()


def is_text(tokenizer: Tokenizer, token: int) -> bool:
    """Tells whether a token writes text, unlike padding, end of padding, and ids that the tokenizer lacks."""
    if not 0 <= token < tokenizer.GetPieceSize():
        return False
    return not (tokenizer.IsControl(token) or tokenizer.IsUnknown(token))


def split_words(text: str) -> tuple[str, list[str]]:
    """Splits a reader's text into what goes on with the word before it, and the words that begin in it.

    A word may be empty still: the space that begins it can be a piece by itself.
    """
    continued, *begun = text.split(" ")
    return continued, begun


def pieces_of(tokenizer: Tokenizer | None, text: str) -> list[int]:
    """Tokenizes a text, word by word.

    Raises:
        InputError: no tokenizer, no words, or a word that has no pieces.
    """
    if tokenizer is None:
        raise InputError("this checkpoint has no tokenizer: it cannot be asked to say a sentence")
    return [piece for word in word_pieces(tokenizer, text) for piece in word]


def word_pieces(tokenizer: Tokenizer, text: str) -> Words:
    """Returns the pieces of each word of a text, which is folded where the tokenizer has none for it.

    Signs and digits that it lacks are written out in English words first, as `write_out` does.

    Raises:
        InputError: nothing is left to be said, or a word has letters that the tokenizer does not know.
    """
    if has_surrogates(text):
        word = next(filter(has_surrogates, text.split()))
        raise InputError(f"{word!r} is not Unicode text; accepted: no surrogates")

    def is_known(part: str) -> bool:
        pieces: list[int] = tokenizer.encode(part)
        # Pieces of single bytes would spell an emoji out, and no model was trained to read one aloud.
        is_sign = any(unicodedata.category(one) == "So" for one in part)
        return all(
            is_text(tokenizer, piece) and not (is_sign and tokenizer.IsByte(piece)) for piece in pieces
        )

    written = write_out(text, is_known).split()
    words = [pieces for word in written for pieces in _pieces_of_word(tokenizer, word, is_known)]
    if not words:
        raise InputError("an empty sentence cannot be said; accepted: at least one word")
    return words


def _pieces_of_word(tokenizer: Tokenizer, word: str, is_known: Callable[[str], bool]) -> Words:
    """The pieces of a word; folding can make several words of one, or none."""
    folded = [word] if is_known(word) else fold(word, is_known).split()
    for one in folded:
        if not is_known(one):
            raise InputError(
                f"{word!r} cannot be said: the model's text has no pieces for it; accepted: words of "
                "characters that its tokenizer knows"
            )
    return [pieces for one in folded if (pieces := tokenizer.encode(one))]


def has_surrogates(word: str) -> bool:
    """Tells whether a text holds halves of UTF-16 pairs: JSON can bring them, and no tokenizer takes them."""
    return any("\ud800" <= character <= "\udfff" for character in word)


def ends_sentence(text: str) -> bool:
    """Tells whether a text ends with the end of a sentence: a stop, or a closing mark after one."""
    return text.rstrip().rstrip("\"'\u201d\u2019\u00bb)]").endswith((".", "!", "?", "\u2026", "\u3002"))
