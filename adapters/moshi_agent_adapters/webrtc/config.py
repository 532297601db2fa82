"""How a connection is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiortc import RTCConfiguration, RTCIceServer
from aiortc.rtcicetransport import parse_stun_turn_uri

from moshi_agent.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class IceServer:
    """Names a STUN or TURN server, for peers that do not reach each other directly.

    Raises:
        ConfigError: a URL is none of theirs, or a TURN server lacks a username or credential, without which
            browsers refuse it.
    """

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for url in self.urls:
            try:
                scheme = parse_stun_turn_uri(url)["scheme"]
            except ValueError as error:
                accepted = "one like stun:HOST:PORT or turn:HOST:PORT?transport=tcp"
                raise ConfigError(f"the ICE server {url!r}; accepted: {accepted}") from error
            if scheme in ("turn", "turns") and (self.username is None or self.credential is None):
                raise ConfigError(f"the ICE server {url!r} alone; accepted: with a username and a credential")

    @classmethod
    def parse(cls, text: str) -> IceServer:
        """Reads `URL` or `URL,username,credential`; the credential may hold commas. Raises ConfigError."""
        url, *secret = text.split(",", 2)
        if len(secret) == 1:
            raise ConfigError(
                f"the ICE server {url!r} has a username alone; accepted: URL,username,credential"
            )
        username, credential = secret or (None, None)
        return cls(urls=(url,), username=username, credential=credential)

    def to_json(self) -> dict[str, Any]:
        """Returns the server as a browser's `RTCIceServer`."""
        secret = {"username": self.username, "credential": self.credential}
        return {
            "urls": list(self.urls),
            **{name: value for name, value in secret.items() if value is not None},
        }


_ABOVE_ZERO = (
    *("messages_per_second", "says_per_second", "offers_per_second"),
    *("connect_timeout_s", "silence_timeout_s", "longest_call_s", "stats_interval_s"),
)


@dataclass(frozen=True, kw_only=True)
class ConnectionConfig:
    """Sets up one call."""

    ice_servers: tuple[IceServer, ...] = ()
    # Packets held back before they are decoded. A jitter buffer before a model only makes it late: the
    # caller's own evens out what comes back. None leaves aiortc's buffer as it is: four packets, and after a
    # lost one 14 for the rest of the call. A number uses private parts of aiortc, and is ignored where those
    # have changed.
    prefetch: int | None = 0
    # Whether a caller may name private and loopback addresses as its own, to which packets then go. None: one
    # that calls from such an address may.
    private_candidates: bool | None = None
    messages_per_second: float = 20.0  # of the caller on its data channels; ten times so many end the call
    says_per_second: float = 2.0  # of them, sentences to say
    offers_per_second: float = 0.5  # renewed ones; ten may come together
    connecting_per_address: int = 8  # calls that are answered and not connected yet, from one address
    connect_timeout_s: float = 15.0  # from the answer to the first packet
    silence_timeout_s: float = 3.5  # nothing at all received for so long: the peer is gone
    longest_call_s: float = 3600.0
    bit_rate: int = 32_000  # of the Opus stream to the caller, in bits a second
    expected_loss_percent: int = 10  # what its redundancy (in-band FEC) is made for
    stats_interval_s: float = 1.0

    def __post_init__(self) -> None:
        if self.prefetch is not None and not 0 <= self.prefetch <= 8:
            raise ConfigError(f"prefetch={self.prefetch}; accepted: 0 to 8 packets of 20 ms, or None")
        if not 6_000 <= self.bit_rate <= 510_000:
            raise ConfigError(f"bit_rate={self.bit_rate}; accepted: 6000 to 510000")
        if not 0 <= self.expected_loss_percent <= 100:
            raise ConfigError(f"expected_loss_percent={self.expected_loss_percent}; accepted: 0 to 100")
        if self.connecting_per_address < 1:
            raise ConfigError(f"connecting_per_address={self.connecting_per_address}; accepted: 1 or more")
        for name in _ABOVE_ZERO:
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)}; accepted: above 0")

    def rtc_configuration(self) -> RTCConfiguration:
        """Returns it as aiortc takes it; no server is asked that was not named."""
        servers = [RTCIceServer(list(s.urls), s.username, s.credential) for s in self.ice_servers]
        return RTCConfiguration(iceServers=servers)
