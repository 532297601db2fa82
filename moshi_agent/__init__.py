"""Moshi, the full-duplex speech model, for the voice-agent frameworks people already use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from moshi_agent._version import __version__
from moshi_agent.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    InputError,
    MoshiAgentError,
    OutputError,
)

if TYPE_CHECKING:
    from moshi_agent.checkpoint import Checkpoint, load_checkpoint
    from moshi_agent.conversation import Conversation, Reply
    from moshi_agent.transcript import Word

__all__ = [
    "AudioError",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "Conversation",
    "InputError",
    "MoshiAgentError",
    "OutputError",
    "Reply",
    "Word",
    "__version__",
    "load_checkpoint",
]

# What needs torch is imported when it is first asked for: `moshi-agent --help` takes no seconds.
_LAZY = {
    "Checkpoint": "moshi_agent.checkpoint",
    "Conversation": "moshi_agent.conversation",
    "Reply": "moshi_agent.conversation",
    "Word": "moshi_agent.transcript",
    "load_checkpoint": "moshi_agent.checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
