"""The public names of the package, so that none comes or goes unnoticed."""

from __future__ import annotations

import pytest

import moshi_agent

NAMES = [
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


def test_the_public_names_are_these() -> None:
    assert sorted(moshi_agent.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(moshi_agent, name) is not None
