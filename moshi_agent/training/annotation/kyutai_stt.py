"""Kyutai's own speech recognition as a recogniser: see `moshi_agent.transcription`."""

from __future__ import annotations

from collections.abc import Iterator

from moshi_agent.audio.framing import Samples
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.text.word_tracker import TimedWord
from moshi_agent.training.annotation.placed_word import PlacedWord
from moshi_agent.transcription import Transcriber


class KyutaiRecogniser:
    """Finds words by one of Kyutai's STT checkpoints, their times as exact as its frames of 80 ms.

    Raises:
        CheckpointError, ConfigError: there is no such checkpoint, or it is of another kind.
    """

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        self._transcriber = Transcriber(load_checkpoint(model, device=device, pack="auto", progress=True))

    def __call__(self, samples: Samples, /) -> Iterator[PlacedWord]:
        """See `Recogniser`."""
        self._transcriber.reset()
        for part in self._transcriber.stream([samples]):
            if isinstance(part, TimedWord):
                yield PlacedWord(part.word, part.start, part.end)
