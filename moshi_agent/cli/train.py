"""`moshi-agent train`: the built-in model's recipe. Its own options are read by the recipe itself."""

from __future__ import annotations

import click


@click.group()
def train() -> None:
    """Train models."""


@train.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def tiny(arguments: tuple[str, ...]) -> None:
    """Train the built-in model from synthetic speech (`tiny --help` shows the options)."""
    try:
        from moshi_agent.training import recipe
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("moshi_agent"):
            raise
        hint = "pip install 'moshi-agent[train]'"
        raise click.ClickException(f"training needs the package {error.name}: {hint}") from error
    recipe.main(list(arguments))
