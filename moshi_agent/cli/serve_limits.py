"""The limits of `moshi-agent serve` as options, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

_SECONDS = click.FloatRange(0, 86_400)
_ABOVE_0 = click.FloatRange(0, 86_400, min_open=True)
_COUNT = click.IntRange(1)


@dataclass(frozen=True)
class Limit:
    """One limit: its option, the field that it sets, and what it means."""

    option: str
    field: str
    kind: click.ParamType[Any]
    default: int | float | None  # as the field has it
    help: str


# Fields of `ServerConfig`.
LIMITS = (
    Limit("--calls-per-address", "calls_per_address", _COUNT, None, "At once. [default: half of --capacity]"),
    Limit("--starts-per-minute", "starts_per_minute", _COUNT, 120, "Of calls, from one address."),
    Limit("--connections", "most_connections", _COUNT, 1000, "At once, with and without a token."),
    Limit("--connections-per-address", "connections_per_address", _COUNT, 64, "Besides running calls."),
    Limit("--longest-head", "longest_head", _COUNT, 32_768, "Bytes of a request's headers."),
    Limit("--longest-upload", "longest_upload", _COUNT, 26_214_400, "Bytes of a recording."),
    Limit("--longest-message", "longest_message", _COUNT, 262_144, "Bytes of a message in a call."),
    Limit("--request-seconds", "request_s", _ABOVE_0, 20.0, "For a request to come as a whole."),
    Limit("--start-seconds", "start_s", _ABOVE_0, 20.0, "For a client to say how its call is to be."),
    Limit("--open-seconds", "open_s", _ABOVE_0, 10.0, "For the engine to begin a conversation."),
    Limit("--send-seconds", "send_s", _ABOVE_0, 5.0, "For a client to take one message."),
    Limit("--idle-seconds", "idle_s", _ABOVE_0, 30.0, "Without audio; then a call may have to make room."),
    Limit("--ahead-seconds", "ahead_s", _ABOVE_0, 8.0, "Audio that may come faster than real time."),
    Limit(
        "--messages-per-second", "messages_per_second", _ABOVE_0, 50.0, "Of a call, without audio in them."
    ),
    Limit(
        "--frames-per-second", "frames_per_second", _ABOVE_0, 100.0, "Pings and parts of messages, of a call."
    ),
    Limit("--ping-seconds", "ping_s", _ABOVE_0, 10.0, "For a websocket to answer a ping."),
    Limit("--longest-call", "longest_call_s", _ABOVE_0, 3600.0, "In seconds."),
    Limit("--delegation-seconds", "delegation_s", _ABOVE_0, 30.0, "For what is looked up to be found."),
    Limit("--drain-seconds", "drain_s", _SECONDS, 30.0, "For calls to end by themselves, after SIGTERM."),
)

# Fields of `ConnectionConfig`.
WEBRTC_LIMITS = (
    Limit("--webrtc-connecting", "connecting_per_address", _COUNT, 8, "Of one address, not connected yet."),
    Limit("--webrtc-connect-seconds", "connect_timeout_s", _ABOVE_0, 15.0, "From answer to first packet."),
    Limit(
        "--webrtc-silence-seconds", "silence_timeout_s", _ABOVE_0, 3.5, "Without any packet, until the end."
    ),
    Limit("--webrtc-messages-per-second", "messages_per_second", _ABOVE_0, 20.0, "On the data channels."),
    Limit("--webrtc-says-per-second", "says_per_second", _ABOVE_0, 2.0, "Of them, sentences to say."),
    Limit("--webrtc-offers-per-second", "offers_per_second", _ABOVE_0, 0.5, "Renewed ones, of a call."),
)

_Command = TypeVar("_Command", bound=Callable[..., Any])


def limit_options(command: _Command) -> _Command:
    """Gives a command an option for each limit. Its parameter is the field, after `webrtc_` for those."""
    for limit in reversed(WEBRTC_LIMITS):
        command = _option(limit, f"webrtc_{limit.field}")(command)
    for limit in reversed(LIMITS):
        command = _option(limit, limit.field)(command)
    return command


def _option(limit: Limit, parameter: str) -> Callable[[_Command], _Command]:
    shown = limit.default is not None
    return click.option(
        *(limit.option, parameter),
        type=limit.kind,
        default=limit.default,
        show_default=shown,
        help=limit.help,
    )
