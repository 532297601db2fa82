"""How a server is set up."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from moshi_agent.engine.reference_desk import OnReference
from moshi_agent.errors import ConfigError
from moshi_agent_adapters.origins import as_sent
from moshi_agent_adapters.server.backend import BackendConfig

if TYPE_CHECKING:
    from moshi_agent_adapters.webrtc.config import ConnectionConfig, IceServer

# When something is looked up: as the model asks for it, or whenever the caller has said something.
Delegate = Literal["model", "turns"]


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Sets up one server: where it listens, whom it lets in, and how much each may do."""

    host: str = "localhost"
    port: int = 8998
    tokens: tuple[str, ...] = field(default=(), repr=False)  # any of them opens every endpoint
    no_auth: bool = False  # lets everybody in on any host
    origins: tuple[str, ...] = ()  # web pages elsewhere that may connect: "https://example.org"
    ice_servers: tuple[
        IceServer, ...
    ] = ()  # for WebRTC, at both ends: who may call may know their credentials
    webrtc: ConnectionConfig | None = (
        None  # the limits of its calls; ICE servers and length are those of here
    )
    model_name: str = "tiny"  # as `/v1/models` gives it
    longest_message: int = 256 * 1024  # bytes, of a client
    calls_per_address: int | None = None  # None: see `calls_of_one_address`
    starts_per_minute: int = 120  # of calls, from one address
    longest_call_s: float = 3600.0
    longest_upload: int = 25 * 1024 * 1024  # bytes, of a recording that is sent to a recogniser
    most_connections: int = 1000  # of all, with and without a token, as far as there are descriptors for them
    connections_per_address: int = 64  # besides websockets that were let in
    longest_head: int = 32 * 1024  # bytes, of a request's headers
    request_s: float = 20.0  # for a request to come as a whole, and for its answer to be read
    frames_per_second: float = 100.0  # of a websocket: pings, pongs and parts of messages; some s at once
    ping_s: float = 10.0  # for a websocket to answer a ping, and between two
    start_s: float = 20.0  # for a client to say how its call is to be
    open_s: float = 10.0  # for the engine to begin a conversation
    idle_s: float = 30.0  # without audio; then a call may have to make room, see `idle_calls.py`
    messages_per_second: float = 50.0  # of one call, without audio in them; ten times so many at once
    send_s: float = 5.0  # for a client to take one message
    ahead_s: float = 8.0  # audio that may come faster than real time
    drain_s: float = 30.0  # for calls to end by themselves, once the server is told to stop
    voice: str | None = None  # of callers who ask for none, by name: for models that take one
    role: str | None = None  # likewise
    greet: bool = False  # asks a model that was trained so to speak first
    say_commentary: bool = False  # GPT-Live's commentary is spoken, word by word
    delegate: Delegate | None = None  # None: as the model asks where the client answers, else by turns
    delegation_s: float = 30.0  # after which an answer is not wanted any more
    filler: str | None = None  # what the bot says while something is looked up
    apology: str | None = "I am sorry, I cannot tell you that now."  # where no answer comes
    backend: BackendConfig | None = None  # a language model that looks things up
    look_up: OnReference | None = None  # looks up what callers ask for whose clients do not; None: `backend`

    def __post_init__(self) -> None:
        if any(len(token.strip()) < 8 for token in self.tokens):
            raise ConfigError("a token of less than 8 characters; accepted: 8 or more")
        if not all(
            token.isascii() and token.isprintable() and token == token.strip() for token in self.tokens
        ):
            raise ConfigError(
                "a token that no HTTP header can hold; accepted: printable ASCII without spaces at its ends"
            )
        if not (self.tokens or self.no_auth or is_loopback(self.host)):
            raise ConfigError(
                f"the host {self.host} is reachable from elsewhere, and no token is set; accepted: a token, "
                "or to say that everybody may come in (--insecure-no-auth)"
            )
        for origin in self.origins:
            if as_sent(origin) is None:
                raise ConfigError(f"the origin {origin!r}; accepted: one like https://example.org")
        if not 0 < self.ahead_s < 10:  # the engine itself lets so much wait
            raise ConfigError(f"ahead_s={self.ahead_s}; accepted: more than 0, less than 10")
        self._check_numbers()

    def _check_numbers(self) -> None:
        counts = (
            "longest_message",
            "longest_upload",
            "starts_per_minute",
            "most_connections",
            "connections_per_address",
            "longest_head",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; accepted: 1 or more")
        if self.calls_per_address is not None and self.calls_per_address < 1:
            raise ConfigError(f"calls_per_address={self.calls_per_address}; accepted: 1 or more")
        if self.delegate is not None and self.delegate not in get_args(Delegate):
            raise ConfigError(f"delegate={self.delegate!r}; accepted: {', '.join(get_args(Delegate))}")
        for name in (
            "request_s",
            "frames_per_second",
            "messages_per_second",
            "send_s",
            "start_s",
            "open_s",
            "ping_s",
            "delegation_s",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)}; accepted: more than 0")

    def check_words(self, transcriber: str | None) -> None:
        """Raises ConfigError where something is looked up by callers' words, and nothing writes those down.

        Args:
            transcriber: what would, if there is something.
        """
        needs_words = self.backend is not None or self.look_up is not None or self.delegate == "turns"
        if needs_words and transcriber is None:
            raise ConfigError(
                "what callers ask for is looked up by their words, and nothing writes those down; accepted: "
                "a recogniser (--transcribe)"
            )

    def calls_of_one_address(self, capacity: int) -> int:
        """How many calls an address may have at once: half of the engine's, if nothing else is said."""
        return max(1, capacity // 2) if self.calls_per_address is None else self.calls_per_address


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, which no other machine can reach."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
