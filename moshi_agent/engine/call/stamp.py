"""When something happened in a conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.events import Event, Word
from moshi_agent.text.word_tracker import TimedWord


@dataclass(frozen=True, slots=True)
class Stamp:
    """A frame and a time, which every event bears."""

    frame: int
    wall_s: float  # Unix time

    @property
    def media_s(self) -> float:
        """Seconds from the start of the conversation's audio."""
        return round(self.frame * FRAME_S, 6)

    def event(self, kind: Callable[..., Event], **fields: object) -> Event:
        """Returns an event of this moment, with the fields of its kind."""
        return kind(frame=self.frame, media_s=self.media_s, wall_s=self.wall_s, **fields)

    def word(self, word: TimedWord) -> Word:
        """Returns a word that is complete now."""
        return Word(
            frame=self.frame,
            media_s=self.media_s,
            wall_s=self.wall_s,
            text=word.word,
            start=word.start,
            end=word.end,
        )
