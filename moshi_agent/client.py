"""`python -m moshi_agent.client`: `moshi-agent talk` by the options of Kyutai's client."""

from __future__ import annotations

import click

from moshi_agent.cli.command_line import SingleCommand
from moshi_agent.cli.talk import talk


@click.command(cls=SingleCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="localhost", show_default=True)
@click.option("--port", type=click.IntRange(1, 65_535), default=8998, show_default=True)
@click.option("--https", is_flag=True, help="Connect by https.")
@click.option("--url", help="The whole address, instead of the options above.")
def main(host: str, port: int, https: bool, url: str | None) -> None:
    """Talk to a server by microphone and speakers.

    The options are those of Kyutai's client. `moshi-agent talk` has more: audio files, voices, and so on.
    What it takes from the environment (MOSHI_AGENT_TOKEN) works here, too.
    """
    address = url or f"{'https' if https else 'http'}://{host}:{port}"
    talk.main(["--url", address], prog_name="moshi-agent talk", standalone_mode=False)


if __name__ == "__main__":
    main(prog_name="moshi_agent.client")
