"""How a server is set up."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from moshi_agent.errors import ConfigError

if TYPE_CHECKING:
    from moshi_agent_adapters.webrtc.config import IceServer


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
    model_name: str = "tiny"  # as `/v1/models` gives it
    longest_message: int = 256 * 1024  # bytes, of a client
    connections_per_address: int = 32
    starts_per_minute: int = 120  # of calls, from one address
    longest_call_s: float = 3600.0
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

    def __post_init__(self) -> None:
        if any(len(token) < 8 for token in self.tokens):
            raise ConfigError("a token of less than 8 characters; accepted: 8 or more")
        if not (self.tokens or self.no_auth or is_loopback(self.host)):
            raise ConfigError(
                f"the host {self.host} is reachable from elsewhere, and no token is set; accepted: a token, "
                "or to say that everybody may come in (--insecure-no-auth)"
            )
        for origin in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path:
                raise ConfigError(f"the origin {origin!r}; accepted: one like https://example.org")
        if not 0 < self.ahead_s < 10:  # the engine itself lets so much wait
            raise ConfigError(f"ahead_s={self.ahead_s}; accepted: more than 0, less than 10")
        if min(self.longest_message, self.connections_per_address, self.starts_per_minute) < 1:
            raise ConfigError(
                "longest_message, connections_per_address, starts_per_minute; accepted: 1 or more"
            )


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, which no other machine can reach."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
