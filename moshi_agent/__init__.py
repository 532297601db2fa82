"""Moshi, the full-duplex speech model, for the voice-agent frameworks people already use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from moshi_agent._version import __version__
from moshi_agent.errors import (
    AudioError,
    BacklogFull,
    CheckpointError,
    ConfigError,
    DataError,
    DeviceFull,
    EngineFull,
    EngineUnhealthy,
    InputError,
    MoshiAgentError,
    OutputError,
    SessionClosed,
)

if TYPE_CHECKING:
    from moshi_agent.checkpoint import Checkpoint, load_checkpoint
    from moshi_agent.config import SamplingConfig
    from moshi_agent.conversation import Conversation, Reply
    from moshi_agent.engine.asking import AskConfig, Referral
    from moshi_agent.engine.config import EngineConfig, SessionConfig
    from moshi_agent.engine.engine import Engine
    from moshi_agent.engine.prompt.prompt import Prompt
    from moshi_agent.engine.session import Session
    from moshi_agent.events import (
        AudioChunk,
        BotStarted,
        BotStopped,
        ContextFull,
        ContextRefreshed,
        Ended,
        EndReason,
        Event,
        InputResumed,
        InputSkipped,
        InputStalled,
        Interrupted,
        OutputDropped,
        OverlapStarted,
        OverlapStopped,
        ReferenceEnded,
        ReferenceWanted,
        SayFinished,
        SayHeard,
        TextToken,
        Turn,
        UserPaused,
        UserSaid,
        UserStarted,
        UserStopped,
        UserText,
        UserWord,
        Word,
    )
    from moshi_agent.text.transcript import Transcript

__all__ = [
    "AskConfig",
    "AudioChunk",
    "AudioError",
    "BacklogFull",
    "BotStarted",
    "BotStopped",
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "ContextFull",
    "ContextRefreshed",
    "Conversation",
    "DataError",
    "DeviceFull",
    "EndReason",
    "Ended",
    "Engine",
    "EngineConfig",
    "EngineFull",
    "EngineUnhealthy",
    "Event",
    "InputError",
    "InputResumed",
    "InputSkipped",
    "InputStalled",
    "Interrupted",
    "MoshiAgentError",
    "OutputDropped",
    "OutputError",
    "OverlapStarted",
    "OverlapStopped",
    "Prompt",
    "ReferenceEnded",
    "ReferenceWanted",
    "Referral",
    "Reply",
    "SamplingConfig",
    "SayFinished",
    "SayHeard",
    "Session",
    "SessionClosed",
    "SessionConfig",
    "TextToken",
    "Transcript",
    "Turn",
    "UserPaused",
    "UserSaid",
    "UserStarted",
    "UserStopped",
    "UserText",
    "UserWord",
    "Word",
    "__version__",
    "load_checkpoint",
]

# What needs torch or numpy is imported when it is first asked for: `moshi-agent --help` takes no seconds.
# Public names that are neither here nor above are events.
_LAZY = {
    "AskConfig": "moshi_agent.engine.asking",
    "Checkpoint": "moshi_agent.checkpoint",
    "Conversation": "moshi_agent.conversation",
    "Engine": "moshi_agent.engine.engine",
    "EngineConfig": "moshi_agent.engine.config",
    "Prompt": "moshi_agent.engine.prompt.prompt",
    "Referral": "moshi_agent.engine.asking",
    "Reply": "moshi_agent.conversation",
    "SamplingConfig": "moshi_agent.config",
    "Session": "moshi_agent.engine.session",
    "SessionConfig": "moshi_agent.engine.config",
    "Transcript": "moshi_agent.text.transcript",
    "load_checkpoint": "moshi_agent.checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY.get(name, "moshi_agent.events")), name)
