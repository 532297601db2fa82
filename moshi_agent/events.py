"""What a conversation tells those who hold it, as frozen dataclasses.

Event                      frame, media time and wall time of all of them
├── AudioChunk             what the bot says
├── TextToken, Word        what it says, as text
├── UserText, UserWord, UserSaid, UserPaused      what the user says, where a recogniser listens
├── UserStarted, UserStopped, BotStarted, BotStopped
├── OverlapStarted, OverlapStopped      both speak
├── Interrupted            the bot fell silent because the user spoke
├── SayFinished            a sentence asked for with `say` is written
├── SayHeard               and has been spoken
├── ReferenceWanted        something is to be looked up
├── ReferenceEnded         and is no longer wanted: it is there, or will not come
├── InputStalled, InputResumed, InputSkipped, OutputDropped
├── ContextFull, ContextRefreshed
└── Ended                  the last one, with its reason
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EndReason = Literal["finished", "closed", "error", "drained", "moved", "engine_lost"]
Speaker = Literal["user", "bot"]
AskedBy = Literal["model", "words", "rule", "application"]
ReferenceReason = Literal["answered", "superseded", "interrupted", "timed_out", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Holds what one side has said, and when, in seconds of media time."""

    speaker: str  # a `Speaker`
    text: str
    start: float
    end: float
    whole: bool = False  # it is over; else more may follow


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Tells that something happened in a conversation, and when."""

    frame: int  # counts from 0, 80 ms each
    media_s: float  # seconds from the start of the conversation's audio
    wall_s: float  # Unix time


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioChunk(Event):
    """Brings what the bot says in one frame. Where it says nothing the samples are exactly zero."""

    pcm: NDArray[np.float32] = field(repr=False)  # [N] mono, -1 to 1
    sample_rate: int

    def to_int16(self) -> bytes:
        """Returns the samples as little-endian 16-bit integers."""
        return (self.pcm.clip(-1, 1) * 32767).round().astype("<i2").tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextToken(Event):
    """Brings a piece of the inner monologue; a leading space begins a word.

    `frame` is the frame it was sampled in, `aligned_frame` the one whose audio it goes with.
    """

    text: str
    token: int
    aligned_frame: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Word(Event):
    """Brings a whole word and tells when it is said, in seconds of media time."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserText(Event):
    """Brings a piece of what the user says, as soon as it is written; a leading space begins a word."""

    text: str
    start: float  # seconds of media time


@dataclass(frozen=True, slots=True, kw_only=True)
class UserWord(Event):
    """Brings a whole word of the user and tells when it was said, in seconds of media time."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSaid(Event):
    """Brings all that the user has said until now, or since the last of these: the user has stopped."""

    text: str
    start: float  # of its first word, in seconds of media time
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPaused(Event):
    """Tells that the recogniser expects so much silence, by meaning and melody."""

    probability: float
    horizon_s: float = 2.0  # an engine that is a recogniser alone tells 0.5 s as well


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStarted(Event):
    """Tells that the user speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStopped(Event):
    """Tells that the user has fallen silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotStarted(Event):
    """Tells that the bot speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotStopped(Event):
    """Tells that the bot has fallen silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapStarted(Event):
    """Tells that user and bot speak at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapStopped(Event):
    """Tells that one of the two has fallen silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted(Event):
    """Tells that the user spoke while the bot did, and the bot stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SayFinished(Event):
    """Tells that the bot has taken all text that `say` was given. The sound of its end is still to come."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SayHeard(Event):
    """Tells that the sound of a sentence that `say` was given has come to its end."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceWanted(Event):
    """Asks the application for something to speak about, to be given with `Session.refer`."""

    id: int  # of the request, from 1; a newer one supersedes it
    by: AskedBy  # a trained token, new words of the user, `AskConfig.when`, or `Session.ask`
    turns: tuple[Turn, ...]  # what has been said, the last of which may still go on

    @property
    def question(self) -> str:
        """Returns what the user has said last, "" where nobody has written it down."""
        return next((turn.text for turn in reversed(self.turns) if turn.speaker == "user"), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceEnded(Event):
    """Tells that a request of `ReferenceWanted` is over, and why. What comes for it later is not spoken."""

    id: int
    reason: ReferenceReason
    text: str | None = None  # of the answer, where it was taken


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStalled(Event):
    """Tells that no input came for longer than `stall_ms`: the model hears silence until more comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputResumed(Event):
    """Tells that input comes again."""

    silent_frames: int  # that the model heard instead


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSkipped(Event):
    """Tells that silent input was left out to catch up."""

    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDropped(Event):
    """Tells that output was left out: silence to catch up, or the oldest audio that nobody took."""

    samples: int
    was_silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFull(Event):
    """Tells that the model's context is full: each new frame makes it forget the oldest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextRefreshed(Event):
    """Tells that the conversation has begun anew from its prompt, in a silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """Tells that the conversation is over, and why. It is the last event."""

    reason: EndReason
    error: str | None = None
