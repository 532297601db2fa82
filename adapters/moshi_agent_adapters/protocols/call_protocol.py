"""What a protocol is to the server: messages in, orders out; events in, messages out. No input or output.

Wanted          how the client wants its conversation to be
Hear, Send, Say, Refer, Ask, Hold, HangUp      what a message of the client makes the call do
ProtocolError   a message that the protocol does not allow
CallEnd         why a call is over
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from moshi_agent.config import SamplingConfig
from moshi_agent.engine.asking import AskConfig, Referral
from moshi_agent.events import Event, ReferenceWanted

Message = str | bytes
SendMessages = Callable[["Iterable[Message]"], Awaitable[None]]
# Finds an answer to what the conversation asks for, and tells the client of it; None is for nothing found.
Lookup = Callable[[ReferenceWanted, SendMessages], Awaitable[str | None]]

EndKind = Literal[
    "left",  # the client has gone
    "hung_up",  # the client has asked for the end
    "bad_message",
    "too_fast",  # it sends more audio than real time holds, or messages without any
    "too_slow",  # it does not read
    "idle",  # it says nothing, and others wait for its row
    "expired",  # the call is as long as a call may be
    "refused",  # there is no room
    "drained",  # the server is shutting down
    "moved",  # it goes on in another process, for the token in `CallEnd.code`
    "failed",  # on our side
]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Says how the client wants its conversation to be. None leaves a choice to the server."""

    role: str | None = None  # a text prompt
    voice: str | None = None  # by name
    sampling: SamplingConfig | None = None
    seed: int | None = None
    output_sample_rate: int = 24_000
    asking: AskConfig | None = None  # when something is looked up
    lookup: Lookup | None = None  # by the server; None leaves it to the client
    can_move: bool = False  # comes back with a token, where the call is to go on in another process
    resume: str | None = None  # such a token


@dataclass(frozen=True)
class Hear:
    """Brings audio of the user, [N] at a rate in Hz."""

    pcm: NDArray[np.int16] = field(repr=False)
    sample_rate: int


@dataclass(frozen=True)
class Send:
    """Sends a message back to the client."""

    message: Message


@dataclass(frozen=True)
class Say:
    """Makes the bot speak this sentence."""

    text: str
    client_event_id: str | None = None  # of the message that asks for it
    alone: bool = False  # begins at once, and nothing of the bot's own follows


@dataclass(frozen=True)
class Refer:
    """Gives the bot something to speak about, or a sentence to say, for what the conversation has asked."""

    text: str
    for_id: int | None  # of the request
    as_sentence: bool
    client_event_id: str | None = None
    on_outcome: Callable[[Referral], Iterable[Message]] = field(default=lambda _: (), compare=False)


@dataclass(frozen=True)
class Ask:
    """Has something looked up, as if the conversation had asked for it."""


@dataclass(frozen=True)
class Hold:
    """Lets the bot say nothing of its own for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class HangUp:
    """Ends the call, as the client asks."""


Order = Hear | Send | Say | Refer | Ask | Hold | HangUp


class ProtocolError(Exception):
    """Reports a message of the client that the protocol does not allow.

    It is refused by itself and the call goes on, unless it is fatal.

    Attributes:
        code: for programs, in the protocol's own terms.
        client_event_id: of the message, where it has one.
        is_fatal: nothing that follows it in the stream can be understood, or what it asks for is the call.
    """

    def __init__(
        self,
        message: str,
        code: str = "invalid_message",
        client_event_id: str | None = None,
        *,
        is_fatal: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.client_event_id = client_event_id
        self.is_fatal = is_fatal


@dataclass(frozen=True)
class CallEnd:
    """Says why a call is over."""

    kind: EndKind
    text: str = ""  # for people
    code: str = ""  # for programs, where the kind does not say it all
    client_event_id: str | None = None  # of the message that ended it

    @property
    def is_good(self) -> bool:
        """Whether somebody has hung up, and nothing has gone wrong."""
        return self.kind in ("left", "hung_up")


class CallProtocol(Protocol):
    """Translates one call between the messages of one protocol and the engine."""

    name: ClassVar[str]  # in the log

    @property
    def wanted(self) -> Wanted | None:
        """Returns what the client wants, None until it has said it. Raises ProtocolError."""
        ...

    def connected(self) -> Iterable[Message]:
        """Returns the messages for a client that has just connected. Raises ProtocolError."""
        ...

    def began(self) -> Iterable[Message]:
        """Returns the messages for a conversation that has its row."""
        ...

    def left_out(self, reason: str) -> Iterable[Message]:
        """Tells the client, once the conversation has begun, which of its wishes has no effect."""
        ...

    def receive(self, message: Message) -> Iterable[Order]:
        """Takes a message of the client. Raises ProtocolError."""
        ...

    def tell(self, event: Event) -> Iterable[Message]:
        """Returns what the client is told of an event."""
        ...

    def refused(self, error: ProtocolError) -> Iterable[Message]:
        """Tells the client of a message that is refused by itself."""
        ...

    def ended(self, end: CallEnd) -> Iterable[Message]:
        """Returns the last messages."""
        ...
