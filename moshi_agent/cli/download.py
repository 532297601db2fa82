"""`moshi-agent download`: a checkpoint fetched and checked ahead of time."""

from __future__ import annotations

import click


@click.command()
@click.argument("repo")
@click.option("--revision", help="A branch, tag or commit of the repository.")
@click.option("--token", envvar="HF_TOKEN", help="Access token for a gated or private repository.")
def download(repo: str, revision: str | None, token: str | None) -> None:
    """Fetch the checkpoint REPO from the Hugging Face hub and check that it is whole.

    A folder can be checked as well. The hub's files go to its cache, where every command finds them.
    """
    from moshi_agent.checkpoint import download_checkpoint  # loads torch

    files = download_checkpoint(repo, revision=revision, token=token)
    for file in files:
        click.echo(f"{file.size / 1e6:10.1f} MB  {file.path}")
    click.echo(f"{repo} is here and whole.")
