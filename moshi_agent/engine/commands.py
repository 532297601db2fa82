"""What the threads of a program ask of the thread that owns the device: plain data, fit for a pipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from moshi_agent.config import SamplingConfig
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.step.frame_step import Frame
from moshi_agent.engine.step.step_tensors import Reference
from moshi_agent.events import AskedBy
from moshi_agent.text.pieces import Words
from moshi_agent.text.word_tracker import TimedWord

Key = int  # of a conversation, unique in its engine


@dataclass(frozen=True, slots=True)
class Open:
    """A conversation begins, from a snapshot if there is one. Answered when it has its row."""

    key: Key
    config: SessionConfig
    snapshot: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class InputFrame:
    """One frame of the user."""

    key: Key
    pcm: Frame = field(repr=False)
    speaking: bool  # the user is, by voice activity
    silent: bool  # may be left out to catch up
    complete_at: float  # when its last sample came, on the monotonic clock
    chunk: int = 0  # frames that came in one chunk share its number


@dataclass(frozen=True, slots=True)
class Finish:
    """No more input: the tail, then the end."""

    key: Key


@dataclass(frozen=True, slots=True)
class Close:
    """The end, now."""

    key: Key


@dataclass(frozen=True, slots=True)
class Say:
    """The bot is to speak a sentence; `at_once` and `alone` as in `Session.say`."""

    key: Key
    text: str
    at_once: bool = False
    alone: bool = False
    words: Words | None = field(default=None, repr=False)  # of the text, before it comes to the steps


@dataclass(frozen=True, slots=True)
class Hold:
    """The bot says nothing of its own for so long; 0 releases it."""

    key: Key
    seconds: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Something is to be looked up. Answered with the request's number."""

    key: Key
    by: AskedBy


@dataclass(frozen=True, slots=True)
class Refer:
    """What was found, as text; None for nothing. Answered with a `Referral`."""

    key: Key
    text: str | None
    for_id: int | None  # the request that it answers
    as_sentence: bool  # it is to be said as it is


@dataclass(frozen=True, slots=True)
class GiveReference:
    """The same as the model takes it, for the thread that takes the steps."""

    key: Key
    for_id: int | None
    text: str | None
    reference: Reference | None = field(default=None, repr=False)  # None: to be said, or nothing was found
    words: Words | None = field(default=None, repr=False)  # of the text, where it is to be said
    refusal: str | None = None  # why the text cannot be given


@dataclass(frozen=True, slots=True)
class HeardUtterance:
    """What the user has said until now, as a recogniser of the application's own has written it down."""

    key: Key
    words: tuple[TimedWord, ...]  # at their times in the conversation


@dataclass(frozen=True, slots=True)
class SetSampling:
    """Samples otherwise from the next frame on."""

    key: Key
    sampling: SamplingConfig


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Answered with the conversation as bytes, with which it ends if `end` says so.

    `compact` as in `Session.snapshot`.
    """

    key: Key
    end: bool = False
    compact: bool = False


@dataclass(frozen=True, slots=True)
class TakeMetrics:
    """Answered with the conversation's `SessionReport`."""

    key: Key


@dataclass(frozen=True, slots=True)
class NoteDropped:
    """Nobody has taken so many samples of the output in time; they are lost."""

    key: Key
    samples: int


@dataclass(frozen=True, slots=True)
class RestartPercentiles:
    """The percentiles of the engine's metrics are to cover what comes from now on."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered, between two steps, by an engine that does not hang."""


@dataclass(frozen=True, slots=True)
class Drain:
    """No new conversations; the running ones end after so many seconds, or when they are over."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Everything ends."""


Command = (
    Open
    | InputFrame
    | Finish
    | Close
    | Say
    | Hold
    | Ask
    | Refer
    | GiveReference
    | HeardUtterance
    | SetSampling
    | TakeSnapshot
    | TakeMetrics
    | NoteDropped
    | RestartPercentiles
    | Ping
    | Drain
    | Stop
)
