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
    """One limit: its option, the field of `ServerConfig` that it sets, and what it means."""

    option: str
    field: str
    kind: click.ParamType[Any]
    default: int | float | None  # as the field has it
    help: str


LIMITS = (
    Limit("--calls-per-address", "calls_per_address", _COUNT, None, "At once. [default: half of --capacity]"),
    Limit("--starts-per-minute", "starts_per_minute", _COUNT, 120, "Of calls, from one address."),
    Limit("--connections", "most_connections", _COUNT, 1000, "At once, with and without a token."),
    Limit("--connections-per-address", "connections_per_address", _COUNT, 64, "Besides running calls."),
    Limit("--longest-head", "longest_head", _COUNT, 32_768, "Bytes of a request's headers."),
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
    Limit("--longest-call", "longest_call_s", _ABOVE_0, 3600.0, "In seconds."),
    Limit("--drain-seconds", "drain_s", _SECONDS, 30.0, "For calls to end by themselves, after SIGTERM."),
)

_Command = TypeVar("_Command", bound=Callable[..., Any])


def limit_options(command: _Command) -> _Command:
    """Gives a command an option for each limit; its parameter has the field's name."""
    for limit in reversed(LIMITS):
        option = click.option(
            limit.option,
            limit.field,
            type=limit.kind,
            default=limit.default,
            show_default=limit.default is not None,
            help=limit.help,
        )
        command = option(command)
    return command
