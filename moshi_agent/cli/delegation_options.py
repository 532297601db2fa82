"""The options of `moshi-agent serve` about looking something up in the middle of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from moshi_agent.cli.whole_text import WholeText

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--look-up",
        metavar="FILE.py:NAME",
        help="An async function of your own (or MODULE:NAME) that finds what callers ask for.",
    ),
    click.option(
        "--backend-url",
        metavar="URL",
        help="A language model that looks things up, such as http://localhost:11434/v1.",
    ),
    click.option("--backend-model", metavar="NAME", help="Its name there."),
    click.option(
        "--backend-key",
        envvar="MOSHI_AGENT_BACKEND_KEY",
        type=WholeText(),
        help="Its key, where it needs one.",
    ),
    click.option(
        "--delegate",
        type=click.Choice(["model", "turns"]),
        help="Look something up as the model asks, or whenever the caller has said something. "
        "[default: turns for the language model and --look-up, model for clients]",
    ),
    click.option(
        "--reference-encoder",
        metavar="auto|SOURCE|FILE.py:NAME",
        help="What makes rows of what was found, for MoshiRAG: auto is the encoder that its checkpoint "
        "names, SOURCE another folder or repository, NAME a function of your own.",
    ),
    click.option("--filler", metavar="TEXT", help="What the bot says while something is looked up."),
    click.option(
        "--apology",
        metavar="TEXT",
        default="I am sorry, I cannot tell you that now.",
        show_default=True,
        help="What the bot says where no answer comes.",
    ),
)
DELEGATION = ("delegate", "filler", "apology")  # fields of `ServerConfig`


def delegation_options(command: _Command) -> _Command:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
