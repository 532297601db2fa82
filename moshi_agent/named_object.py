"""Finds an object of somebody's own program by its name."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

from moshi_agent.errors import ConfigError


def names_object(name: str) -> bool:
    """Tells whether a text is `MODULE:NAME` or `FILE.py:NAME`, and no address of a repository."""
    return re.fullmatch(r"([\w.]+|.+\.py):\w+", name) is not None


def find_named(name: str, what: str) -> object:
    """Imports what `MODULE:NAME` or `FILE.py:NAME` names. A file may import its neighbours, as a script may.

    Args:
        name: such as `shop.orders:look_up` or `examples/look_up.py:look_up`.
        what: it is to be, for the error: "the recogniser".

    Raises:
        ConfigError: there is no such object, or it cannot be imported.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ConfigError(f"{what} {name!r}; accepted: MODULE:NAME or FILE.py:NAME")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        return getattr(module, attribute)
    except Exception as error:  # it is somebody's own program: anything may happen in it
        raise ConfigError(f"{what} {name} cannot be imported: {type(error).__name__}: {error}") from error


def _import_file(file: Path) -> ModuleType:
    path = file.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return importlib.import_module(path.stem)
