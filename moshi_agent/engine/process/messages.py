"""What goes between an engine's process and the one that started it, besides `commands`."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, field
from typing import Any

from moshi_agent.engine.commands import Command, Key
from moshi_agent.engine.event_queue import Delivery
from moshi_agent.engine.prompt.prompt import PromptSource

# To the engine:


class About(enum.Enum):
    """What an engine can be asked that is no command."""

    START = enum.auto()  # answered when it serves
    METRICS = enum.auto()
    CAPACITY = enum.auto()
    MODEL = enum.auto()


Question = Command | PromptSource | About


@dataclass(frozen=True, slots=True)
class Ask:
    """Answered under the same number."""

    number: int
    question: Question


# From the engine:


@dataclass(frozen=True, slots=True)
class Loaded:
    """The checkpoint is loaded; or it is not, and the process ends."""

    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """To a question."""

    number: int
    value: Any = field(default=None, repr=False)
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """Events of a conversation."""

    key: Key
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Logged:
    """A record for the log, which the parent keeps as it is set up to."""

    record: logging.LogRecord
