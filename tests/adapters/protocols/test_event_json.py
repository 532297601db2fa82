"""Events as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moshi_agent import events
from moshi_agent.events import AudioChunk, Ended, Event, ReferenceWanted, TextToken, Turn
from moshi_agent_adapters.protocols.event_json import event_to_dict, event_to_json, type_name

KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and Event in kind.__bases__]
AT = {"frame": 17, "media_s": 1.36, "wall_s": 1.5e9}


def test_an_event_is_one_flat_object() -> None:
    event = TextToken(**AT, text=' "Grüße', token=42, aligned_frame=18)
    line = event_to_json(event)
    assert json.loads(line) == {
        "type": "text_token",
        **AT,
        "text": ' "Grüße',
        "token": 42,
        "aligned_frame": 18,
    }
    assert "\n" not in line and "Grüße" in line


def test_of_audio_only_the_length_is_told() -> None:
    chunk = AudioChunk(**AT, pcm=np.zeros(1920, np.float32), sample_rate=24_000)
    assert event_to_dict(chunk) == {"type": "audio_chunk", **AT, "samples": 1920, "sample_rate": 24_000}


def test_an_end_without_a_fault_has_no_error() -> None:
    assert event_to_dict(Ended(**AT, reason="closed"))["error"] is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_has_a_name_of_its_own(kind: type[Event]) -> None:
    names = [type_name(other) for other in KINDS]
    assert names.count(type_name(kind)) == 1
    assert getattr(events, "".join(part.title() for part in type_name(kind).split("_"))) is kind


def test_what_was_said_before_a_request_is_plain() -> None:
    turns = (Turn(speaker="user", text="Where is it?", start=0.5, end=1.2, whole=True),)
    line = event_to_json(ReferenceWanted(**AT, id=1, by="model", turns=turns))
    [turn] = json.loads(line)["turns"]
    assert turn == {"speaker": "user", "text": "Where is it?", "start": 0.5, "end": 1.2, "whole": True}
