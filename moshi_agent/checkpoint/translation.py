"""The end of what is to be translated, and of its translation.

Hibiki hears one frame of a code that its codec has not, on every codebook, when the speech is over, and
ends its own text with a token when it has said all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from moshi_agent.checkpoint import Checkpoint

_END_OF_TEXT = 2  # where there is no tokenizer to say which it is


@dataclass(frozen=True)
class Ends:
    """How a translation model is told of the end, and how it tells its own."""

    code: int  # in one frame, on all codebooks of the user
    codebooks: int
    text_token: int  # before the end of the input it means nothing


def ends_of(checkpoint: Checkpoint) -> Ends | None:
    """None for a model that does not translate."""
    lm, tokenizer = checkpoint.lm, checkpoint.tokenizer
    if lm is None or checkpoint.model_type != "hibiki":
        return None
    text_token = _END_OF_TEXT if tokenizer is None else tokenizer.eos_id()
    return Ends(lm.card, lm.config.num_user_codebooks, text_token)
