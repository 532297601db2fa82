"""The end of what is to be translated, and of its translation.

Hibiki hears one frame of a code that its codec has not, on every codebook, when the speech is over, and
ends its own text with a token when it has said all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

END_OF_TEXT = 2  # where there is no tokenizer to say which it is


@dataclass(frozen=True)
class Ends:
    """How a translation model is told of the end, and how it tells its own."""

    code: int  # in one frame, on all codebooks of the user
    codebooks: int
    text_token: int  # before the end of the input it means nothing
