"""Sentences that a model is to say, in the pieces of its text."""

from __future__ import annotations

from moshi_agent.errors import BacklogFull, InputError
from moshi_agent.text.pieces import Tokenizer, Words, word_pieces

MOST_PIECES = 3000  # that may wait, of all sentences together; a piece takes a frame or more
_CHARACTERS_A_PIECE = 5  # more than there are on average, in any language


def words_to_say(tokenizer: Tokenizer | None, text: str, most_pieces: int = MOST_PIECES) -> Words:
    """Tokenizes a sentence word by word.

    It takes milliseconds for a long text: whoever can does it before the command comes to the thread that
    takes the steps.

    Args:
        tokenizer: a sentencepiece model; None, for a checkpoint without one, is refused.
        text: the sentence. Whitespace parts its words and has no other meaning.
        most_pieces: that there is room for.

    Raises:
        InputError: no tokenizer, no text, no words, or a word that has no pieces.
        BacklogFull: the text is longer than that, and is not even tokenized.
    """
    if tokenizer is None:
        raise InputError("this checkpoint has no tokenizer: it cannot be asked to say a sentence")
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"{type(text).__name__} cannot be said; accepted: text")
    if len(text) > _CHARACTERS_A_PIECE * most_pieces:
        raise BacklogFull(
            f"{len(text)} characters of text to say; accepted: {_CHARACTERS_A_PIECE * most_pieces} at once, "
            f"{_CHARACTERS_A_PIECE} for each piece of text that has room: say less, or wait for what was "
            "asked to be said"
        )
    return word_pieces(tokenizer, text)
