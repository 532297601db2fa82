"""Mimi and the language model, what generates with them and what loads them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from moshi_agent.models.lm import LMModel
from moshi_agent.models.lm_gen import LMGen
from moshi_agent.models.mimi import MimiModel

if TYPE_CHECKING:
    from moshi_agent.models import loaders
    from moshi_agent.models.loaders import get_mimi, get_moshi_lm

__all__ = ["LMGen", "LMModel", "MimiModel", "get_mimi", "get_moshi_lm", "loaders"]


def __getattr__(name: str) -> object:
    # The loaders stand on `moshi_agent.checkpoint`, which stands on the models.
    if name not in ("loaders", "get_mimi", "get_moshi_lm"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loaders = importlib.import_module("moshi_agent.models.loaders")
    return loaders if name == "loaders" else getattr(loaders, name)
