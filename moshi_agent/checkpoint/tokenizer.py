"""The sentencepiece model of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor

from moshi_agent.checkpoint.foreign import foreign_file
from moshi_agent.errors import CheckpointError


def read_tokenizer(path: Path) -> SentencePieceProcessor:
    """Reads a sentencepiece model. Raises CheckpointError where the file is none."""
    try:
        tokenizer = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        foreign = foreign_file(path) if path.is_file() else None
        reason = foreign or f"not a sentencepiece model ({error})"
        raise CheckpointError(f"{path}: {reason}") from error
    token = 0
    try:
        for token in range(tokenizer.GetPieceSize()):
            tokenizer.IdToPiece(token)
    except UnicodeDecodeError as error:  # else whoever first hears that piece would
        raise CheckpointError(f"{path}: damaged: its piece {token} is no text ({error.reason})") from error
    return tokenizer
