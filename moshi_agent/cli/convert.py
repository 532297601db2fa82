"""`moshi-agent convert`: a checkpoint in the other format."""

from __future__ import annotations

import click


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("folder", metavar="DST", type=click.Path(file_okay=False))
@click.option("--to", required=True, metavar="FORMAT", help="The format of DST: kyutai or transformers.")
@click.option(
    "--max-shard-size", default="5GB", show_default=True, help="Of one weight file (transformers only)."
)
@click.option("--revision", help="A branch, tag or commit of the repository.")
@click.option("--token", envvar="HF_TOKEN", help="Access token for a gated or private repository.")
def convert(
    source: str,
    folder: str,
    to: str,
    max_shard_size: str,
    revision: str | None,
    token: str | None,
) -> None:
    """Write the checkpoint SRC (tiny, a repository or a folder) into the folder DST in another format.

    No number is rounded: there and back again, every bit is as it was.
    """
    from moshi_agent.checkpoint.convert import convert_checkpoint  # loads torch

    convert_checkpoint(source, folder, to, max_shard_size=max_shard_size, revision=revision, token=token)
    click.echo(f"{source} is in {folder}, in the format of {to}.")
