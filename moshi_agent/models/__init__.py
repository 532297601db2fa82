"""Mimi and the language model, what generates with them and what loads them."""

from moshi_agent.models import loaders
from moshi_agent.models.generation import LMGen
from moshi_agent.models.lm import LMModel
from moshi_agent.models.loaders import get_mimi, get_moshi_lm
from moshi_agent.models.mimi import MimiModel

__all__ = ["LMGen", "LMModel", "MimiModel", "get_mimi", "get_moshi_lm", "loaders"]
