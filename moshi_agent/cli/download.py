"""`moshi-agent download`: a checkpoint fetched and checked ahead of time."""

from __future__ import annotations

import click


@click.command()
@click.argument("repo")
@click.option("--revision", help="A branch, tag or commit of the repository.")
@click.option("--token", envvar="HF_TOKEN", help="Access token for a gated or private repository.")
def download(repo: str, revision: str | None, token: str | None) -> None:
    """Fetch the checkpoint REPO from the Hugging Face hub and check that it is whole."""
    from moshi_agent import load_checkpoint  # loads torch

    checkpoint = load_checkpoint(repo, device="cpu", revision=revision, token=token)
    click.echo(f"{checkpoint.name} is here and whole.")
