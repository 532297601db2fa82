"""What a conversation tells those who hold it, as frozen dataclasses.

Event                      frame, media time and wall time of all of them
├── AudioChunk             what the bot says
├── TextToken, Word        what it says, as text
├── UserText, UserWord, UserSaid, UserPaused      what the user says, where a recogniser listens
├── UserStarted, UserStopped, BotStarted, BotStopped
├── OverlapStarted, OverlapStopped      both speak
├── Interrupted            the bot fell silent because the user spoke
├── SayFinished            a sentence asked for with `say` is out
├── InputStalled, InputResumed, InputSkipped, OutputDropped
├── ContextFull, ContextRefreshed
└── Ended                  the last one, with its reason
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EndReason = Literal["finished", "closed", "error", "drained", "engine_lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a conversation."""

    frame: int  # counts from 0, 80 ms each
    media_s: float  # seconds from the start of the conversation's audio
    wall_s: float  # Unix time


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioChunk(Event):
    """What the bot says in one frame. Where it says nothing the samples are exactly zero."""

    pcm: NDArray[np.float32] = field(repr=False)  # [N] mono, -1 to 1
    sample_rate: int

    def to_int16(self) -> bytes:
        """The samples as little-endian 16-bit integers."""
        return (self.pcm.clip(-1, 1) * 32767).round().astype("<i2").tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToken(Event):
    """A piece of the inner monologue; a leading space begins a word.

    `frame` is the frame it was sampled in, `aligned_frame` the one whose audio it goes with.
    """

    text: str
    token: int
    aligned_frame: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Word(Event):
    """A whole word and when it is said, in seconds of media time."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserText(Event):
    """A piece of what the user says, as soon as it is written; a leading space begins a word."""

    text: str
    start: float  # seconds of media time


@dataclass(frozen=True, slots=True, kw_only=True)
class UserWord(Event):
    """A whole word of the user and when it was said, in seconds of media time."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSaid(Event):
    """All that the user has said until now, or since the last of these: the user has stopped."""

    text: str
    start: float  # of its first word, in seconds of media time
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPaused(Event):
    """The recogniser expects the user to be silent for two seconds. By meaning and melody, not by silence."""

    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStarted(Event):
    """The user speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStopped(Event):
    """The user has fallen silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotStarted(Event):
    """The bot speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotStopped(Event):
    """The bot has fallen silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapStarted(Event):
    """User and bot speak at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapStopped(Event):
    """One of the two has fallen silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(Event):
    """The user spoke while the bot did, and the bot stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SayFinished(Event):
    """All text that `say` was given has been spoken."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStalled(Event):
    """No input for longer than `stall_ms`: the model hears silence until more comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputResumed(Event):
    """Input comes again."""

    silent_frames: int  # that the model heard instead


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSkipped(Event):
    """Silent input that was left out to catch up."""

    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDropped(Event):
    """Output left out: silence to catch up, or the oldest audio where nobody takes it."""

    samples: int
    was_silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFull(Event):
    """The model's context is full: from here on the oldest frame is forgotten with every new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRefreshed(Event):
    """The conversation has begun anew from its prompt, in a silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """Nothing comes after this."""

    reason: EndReason
    error: str | None = None
