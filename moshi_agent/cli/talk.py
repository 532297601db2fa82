"""`moshi-agent talk`: the options. The client is an adapter, which is imported when it is to run."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

import click

from moshi_agent.cli.adapters import load_adapter
from moshi_agent.cli.options import Seconds

_PATH = click.Path(path_type=Path, dir_okay=False)


class _Options(TypedDict):
    """What click passes for the options that `Talk` takes as they are."""

    url: str
    token: str | None
    voice: str | None
    role: str | None
    headphones: bool
    trusted: Path | None


@click.command()
@click.option("--url", default="http://localhost:8998", show_default=True, help="Of the server.")
@click.option("--token", envvar="MOSHI_AGENT_TOKEN", help="The server's, if it wants one.")
@click.option(
    "--trust-cert",
    "trusted",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A certificate to trust: that of the server, or of who has signed it.",
)
@click.option("--in", "source", type=_PATH, help="An audio file instead of the microphone.")
@click.option("--out", "target", type=_PATH, help="A wav file instead of the speakers; with --in.")
@click.option(
    "--tail", type=Seconds(600), default=4.0, show_default=True, help="Seconds to listen on after the file."
)
@click.option("--voice", metavar="NAME", help="Of the server's, where its model takes one.")
@click.option("--role", metavar="TEXT", help="What the bot is to be, where the model takes a role.")
@click.option("--headphones", is_flag=True, help="You wear some: no echo is cancelled.")
def talk(source: Path | None, target: Path | None, tail: float, **options: Unpack[_Options]) -> None:
    """Talk to a server: `moshi-agent serve`, or another one that speaks Kyutai's protocol.

    Shows what the bot says as it comes. A lost connection is taken up again. Ctrl-C ends the conversation.
    On a terminal one line shows levels and delays; "skipped" is silence that was left out to stay close to
    real time.
    """
    if target is not None and source is None:
        raise click.UsageError("--out goes with --in: the answer to a file")
    command = load_adapter("talk.command", "talk")
    command.talk(command.Talk(source=source, target=target, tail_s=tail, **options))
