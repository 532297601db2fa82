"""The options of `moshi-agent serve` about replicas on Ray, and what they are by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from moshi_agent.cli.adapters import load_adapter
from moshi_agent.cli.serve_limits import LIMITS

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Range(click.ParamType[tuple[int, int]]):
    """`N` or `MIN-MAX`."""

    name = "range"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Returns the least and the most."""
        if isinstance(value, tuple):
            return value
        least, dash, most = str(value).partition("-")
        try:
            fewest, highest = int(least), int(most if dash else least)
        except ValueError:
            self.fail(f"{value!r}; accepted: a number, such as 2, or two of them, such as 1-4", param, ctx)
        if not 1 <= fewest <= highest:
            self.fail(f"{value!r}; accepted: 1 or more, and the smaller number first", param, ctx)
        return fewest, highest


_OPTIONS = (
    click.option(
        "--ray", "on_ray", is_flag=True, help="Run replicas of the server on Ray, one for each GPU."
    ),
    click.option(
        "--replicas",
        type=_Range(),
        metavar="N|MIN-MAX",
        default="1",
        show_default=True,
        help="With --ray: how many, or how few and how many as calls come and go.",
    ),
    click.option(
        "--target-load",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.7,
        show_default=True,
        help="With --ray: the share of a replica's places that may be taken before another one is begun.",
    ),
    click.option(
        "--scale-up-seconds",
        "scale_up_s",
        type=click.FloatRange(0, 86_400),
        default=5.0,
        show_default=True,
        help="With --ray: for so long there have to be too many calls.",
    ),
    click.option(
        "--scale-down-seconds",
        "scale_down_s",
        type=click.FloatRange(0, 86_400),
        default=600.0,
        show_default=True,
        help="With --ray: for so long there have to be too few.",
    ),
)
_NAMES = ("replicas", "target_load", "scale_up_s", "scale_down_s")
_OF_CONNECTIONS = (  # which Serve's proxy holds, and not a replica
    "most_connections",
    "connections_per_address",
    "longest_head",
    "request_s",
    "frames_per_second",
    "ping_s",
)


def replica_options(command: _Command) -> _Command:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def replicas_of(context: click.Context, options: dict[str, Any]) -> Any:
    """Returns the `Replicas` of the options, which it takes out of them; None for a server without Ray.

    On Ray a call is only ever cut short by the longest call, unless a time to drain is named: replicas come
    and go there all day.
    """
    (fewest, most), *others = (options.pop(name) for name in _NAMES)
    if not context.params["on_ray"]:
        return None
    if context.get_parameter_source("drain_s") is ParameterSource.DEFAULT:
        options["drain_s"] = options["longest_call_s"]
    _refuse_what_the_proxy_does(context)
    fields = dict(zip(_NAMES[1:], others, strict=True))
    return load_adapter("ray.config", "ray").Replicas(fewest=fewest, most=most, **fields)


def _refuse_what_the_proxy_does(context: click.Context) -> None:
    for limit in LIMITS:
        is_given = context.get_parameter_source(limit.field) is not ParameterSource.DEFAULT
        if is_given and limit.field in _OF_CONNECTIONS:
            raise click.UsageError(
                f"{limit.option} with --ray, where Serve's proxy holds the connections; accepted: limits of "
                "calls, and of connections in a proxy of your own before Serve's, such as nginx",
                context,
            )
