"""What a message of OpenAI's protocols holds: an event as JSON, its members, and audio in base64.

Everything here raises ProtocolError for what is not as the protocols say.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, cast

from moshi_agent_adapters.protocols.call_protocol import Message, ProtocolError

_LONGEST_TEXT = 100_000  # characters

Json = dict[str, Any]


def parse_event(message: Message) -> Json:
    """Returns the event in a message: an object with a `type`, and an `event_id` that is text or missing."""
    if isinstance(message, bytes):
        raise ProtocolError("a binary message; accepted: JSON in text messages", "invalid_json")
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no JSON: {error}; accepted: an event in JSON", "invalid_json") from error
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ProtocolError("accepted: a JSON object with a type", "invalid_event")
    event = cast(Json, event)
    if not isinstance(event.get("event_id"), str | None):
        raise ProtocolError("event_id; accepted: text", "invalid_event")
    return event | {"type": event["type"][:80]}


def member_of(parent: Json, name: str, default: Json | None = None) -> Json:
    """Returns the object of this name. Without a default it has to be there."""
    value = parent.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, dict):
        raise ProtocolError(f"{name}; accepted: an object", "invalid_value")
    return cast(Json, value)


def text_of(parent: Json, name: str) -> str | None:
    """Returns the text of this name, None where it is missing or blank."""
    value = parent.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        raise ProtocolError(f"{name}; accepted: text of at most {_LONGEST_TEXT} characters", "invalid_value")
    return value.strip() or None


def audio_bytes(event: Json) -> bytes:
    """Returns the bytes of an event's `audio`, which is written in base64."""
    encoded = event.get("audio")
    if not isinstance(encoded, str):
        raise ProtocolError("audio is missing; accepted: audio in base64")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"audio: {error}; accepted: audio in base64", "invalid_audio") from error
