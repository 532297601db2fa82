"""Sub-commands whose work is done by an adapter, which the core knows by name only."""

from __future__ import annotations

import importlib
from types import ModuleType

import click

_ADAPTERS = "moshi_agent_adapters"


def load_adapter(module: str, extra: str) -> ModuleType:
    """Returns a module of the adapters, imported now.

    Raises:
        click.ClickException: it needs a package that is not installed; says which extra has it.
    """
    try:
        return importlib.import_module(f"{_ADAPTERS}.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("moshi_agent.", f"{_ADAPTERS}.")):
            raise
        hint = f"pip install 'moshi-agent[{extra}]'"
        raise click.ClickException(f"this needs the package {error.name}: {hint}") from error
