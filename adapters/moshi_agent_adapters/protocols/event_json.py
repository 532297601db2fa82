"""Events as JSON: the same form on a data channel, a websocket and in a log.

An event is one flat object: its `type` (the class name in snake case) and its fields under their own names:

    {"type": "text_token", "frame": 17, "media_s": 1.36, "wall_s": ..., "text": " Hello", "token": 42, ...}

Audio has a way of its own wherever there is JSON: of an `AudioChunk` only the number of samples is told.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, cast

from moshi_agent.events import AudioChunk, Event


def event_to_dict(event: Event) -> dict[str, Any]:
    """Returns the event as plain JSON values."""
    values = {name: _plain(getattr(event, name)) for name in _field_names(type(event))}
    if isinstance(event, AudioChunk):
        values["samples"] = len(values.pop("pcm"))
    return {"type": type_name(type(event)), **values}


def event_to_json(event: Event) -> str:
    """Writes the event as one line of JSON."""
    return json.dumps(event_to_dict(event), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Returns turns, which are records in a tuple, as JSON has them."""
    if isinstance(value, tuple):
        return [_plain(one) for one in cast("tuple[Any, ...]", value)]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


@cache
def type_name(kind: type[Event]) -> str:
    """Returns the name of an event's type in JSON: `BotStarted` -> `bot_started`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


@cache
def _field_names(kind: type[Event]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
