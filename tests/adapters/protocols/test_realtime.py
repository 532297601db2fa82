"""OpenAI's Realtime events, without a server, beside the types of OpenAI's own package."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import (
    AudioChunk,
    BotStarted,
    BotStopped,
    Event,
    Interrupted,
    TextToken,
    UserSaid,
    UserStarted,
    UserText,
)
from moshi_agent_adapters.protocols.call_protocol import CallEnd, Hear, Order, ProtocolError, Send
from moshi_agent_adapters.protocols.realtime import RealtimeProtocol, RealtimeServer

_SERVER = RealtimeServer(model="tiny", session_id="sess_1", expires_at=1_800_000_000)
_ROLES = RealtimeServer(model="tiny", session_id="sess_1", expires_at=1_800_000_000, takes_roles=True)
_SOUND = base64.b64encode(bytes(960)).decode()
_BEGIN = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
_END = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]
_KNOWN = [
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "response.create",
    "response.cancel",
    "conversation.item.create",
    "conversation.item.delete",
    "conversation.item.truncate",
]


def _do(protocol: RealtimeProtocol, kind: str, **fields: Any) -> list[Order]:
    return list(protocol.receive(json.dumps({"type": kind, "event_id": "e", **fields})))


def _sent(orders: list[Order]) -> list[dict[str, Any]]:
    return [_checked(order.message) for order in orders if isinstance(order, Send)]


def _checked(message: str | bytes) -> dict[str, Any]:
    """The event, which OpenAI's own types accept."""
    realtime = pytest.importorskip("openai.types.realtime", reason="the openai package is not installed")
    from pydantic import TypeAdapter

    event = json.loads(message)
    parsed = TypeAdapter(realtime.RealtimeServerEvent).validate_python(event)
    assert parsed.type == event["type"]
    return event


def _at(frame: int, kind: type[Event], **fields: Any) -> Event:
    return kind(frame=frame, media_s=frame * 0.08, wall_s=0.0, **fields)


def _told(protocol: RealtimeProtocol, *events: Event) -> list[dict[str, Any]]:
    return [_checked(message) for event in events for message in protocol.tell(event)]


def _speech(frame: int, text: str) -> list[Event]:
    """The bot begins to speak, with a sound."""
    return [
        _at(frame, TextToken, text=text, token=7, aligned_frame=frame + 1),
        _at(frame, BotStarted),
        _at(frame, AudioChunk, pcm=np.full(1920, 0.5, np.float32), sample_rate=24_000),
    ]


def _begun(server: RealtimeServer = _SERVER) -> RealtimeProtocol:
    protocol = RealtimeProtocol(server, "gpt-realtime")
    assert [_checked(message)["type"] for message in protocol.connected()] == ["session.created"]
    assert protocol.wanted is None
    _do(protocol, "session.update", session={"type": "realtime", "instructions": "Be brief."})
    assert protocol.wanted is not None
    return protocol


@pytest.mark.parametrize(
    "model", [None, "tiny", "gpt-realtime", "gpt-realtime-2.1", "gpt-4o-realtime-preview"]
)
def test_the_session_is_told_at_once(model: str | None) -> None:
    (created,) = [_checked(message) for message in RealtimeProtocol(_SERVER, model).connected()]
    assert created["session"]["model"] == "tiny" and created["session"]["id"] == "sess_1"


def test_another_model_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no model 'whisper-1'; accepted: 'tiny'"):
        list(RealtimeProtocol(_SERVER, "whisper-1").connected())


def test_a_conversation_is_as_the_session_was_asked_to_be() -> None:
    protocol = RealtimeProtocol(_SERVER)
    audio = {
        "input": {"format": {"type": "audio/pcma"}},
        "output": {"format": {"type": "audio/pcmu"}, "voice": "v"},
    }
    session = {"type": "realtime", "instructions": " Be brief. ", "audio": audio}
    (updated,) = _sent(_do(protocol, "session.update", session=session))
    wanted = protocol.wanted
    assert wanted is not None
    assert (wanted.role, wanted.voice, wanted.output_sample_rate) == ("Be brief.", "v", 8000)
    assert updated["session"]["audio"]["output"]["format"]["type"] == "audio/pcmu"
    (heard,) = _do(protocol, "input_audio_buffer.append", audio=_SOUND)
    assert isinstance(heard, Hear) and heard.sample_rate == 8000 and len(heard.pcm) == 960
    with pytest.raises(ProtocolError, match="before the call has begun"):
        _do(protocol, "session.update", session={"audio": {"output": {"format": {"type": "audio/pcm"}}}})


def test_a_model_that_takes_roles_waits_for_one_or_for_audio() -> None:
    protocol = RealtimeProtocol(_ROLES)
    _do(protocol, "session.update", session={"type": "realtime"})
    assert protocol.wanted is None
    assert _do(protocol, "input_audio_buffer.append", audio=_SOUND) == []
    assert protocol.wanted is not None
    heard = [o for o in _do(protocol, "input_audio_buffer.append", audio=_SOUND) if isinstance(o, Hear)]
    assert [len(one.pcm) for one in heard] == [480, 480], "what began the conversation is heard as well"
    other = RealtimeProtocol(_ROLES)
    _do(other, "session.update", session={"instructions": "You are a cook."})
    assert other.wanted is not None and other.wanted.role == "You are a cook."


def test_each_turn_is_a_response() -> None:
    protocol = _begun()
    silence = _at(1, AudioChunk, pcm=np.zeros(1920, np.float32), sample_rate=24_000)
    assert _told(protocol, silence) == [], "between turns there is no audio"
    begun = _told(protocol, *_speech(2, " Hello"), _at(3, TextToken, text=" you.", token=8, aligned_frame=4))
    kinds = [event["type"] for event in begun]
    deltas = ["response.output_audio_transcript.delta", "response.output_audio.delta"]
    assert kinds == [*_BEGIN, *deltas, deltas[0]]
    assert base64.b64decode(begun[5]["delta"]) == np.full(1920, 16384, "<i2").tobytes()
    ended = _told(protocol, _at(9, BotStopped), _at(10, UserStarted))
    assert [event["type"] for event in ended] == _END
    assert ended[1]["transcript"] == "Hello you."
    assert ended[-1]["response"]["status"] == "completed"
    assert ended[-1]["response"]["output"][0]["content"][0]["transcript"] == "Hello you."
    again = _told(protocol, *_speech(30, " More"))
    assert again[0]["response"]["id"] != begun[0]["response"]["id"]
    assert again[2]["previous_item_id"] == begun[1]["item"]["id"]


def test_an_interrupted_turn_is_cancelled() -> None:
    protocol = _begun()
    _told(protocol, *_speech(2, " Hello"))
    *_, done = _told(protocol, _at(5, BotStopped), _at(5, Interrupted))
    assert done["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}


def test_the_next_turn_answers_a_wish_for_a_response() -> None:
    protocol = _begun()
    assert _do(protocol, "response.create", response={"metadata": {"mine": "1"}}) == []
    created, *_ = _told(protocol, *_speech(2, " Hello"))
    assert created["response"]["metadata"] == {"mine": "1"}
    with pytest.raises(ProtocolError) as error:
        _do(protocol, "response.create")
    assert error.value.code == "conversation_already_has_active_response"


def test_a_cancelled_response_leaves_out_the_rest_of_the_turn() -> None:
    protocol = _begun()
    with pytest.raises(ProtocolError, match="nothing that could be cancelled"):
        _do(protocol, "response.cancel")
    _told(protocol, *_speech(2, " Hello"))
    done = _sent(_do(protocol, "response.cancel"))[-1]
    assert done["response"]["status_details"]["reason"] == "client_cancelled"
    assert _told(protocol, *_speech(3, " and more"), _at(4, BotStopped), _at(5, UserStarted)) == []
    assert _told(protocol, *_speech(6, " New"))[0]["type"] == "response.created"


def test_what_the_user_says_is_an_item() -> None:
    protocol = _begun()
    events = _told(
        protocol,
        _at(3, UserText, text=" What", start=0.1),
        _at(4, UserText, text=" now?", start=0.2),
        _at(9, UserSaid, text="What now?", start=0.1, end=0.6),
    )
    delta = "conversation.item.input_audio_transcription.delta"
    completed = "conversation.item.input_audio_transcription.completed"
    kinds = [event["type"] for event in events]
    assert kinds == ["conversation.item.added", delta, delta, completed, "conversation.item.done"]
    assert events[3]["transcript"] == "What now?" and events[3]["usage"]["seconds"] == 0.5


def test_what_has_no_effect_is_acknowledged() -> None:
    protocol = _begun()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    added, done = _sent(_do(protocol, "conversation.item.create", item=item))
    assert added["item"]["content"] == item["content"] and done["item"]["id"] == added["item"]["id"]
    where = {"item_id": added["item"]["id"], "content_index": 0, "audio_end_ms": 20}
    assert _sent(_do(protocol, "conversation.item.truncate", **where))[0]["audio_end_ms"] == 20
    assert _sent(_do(protocol, "conversation.item.delete", **where))[0]["item_id"] == where["item_id"]
    for name, past in (("commit", "committed"), ("clear", "cleared")):
        (answer,) = _sent(_do(protocol, f"input_audio_buffer.{name}"))
        assert answer["type"] == f"input_audio_buffer.{past}"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("session.update", {"session": {"type": "transcription"}}),
        ("session.update", {"session": {"output_modalities": ["text"]}}),
        ("session.update", {"session": {"audio": {"input": {"format": {"type": "audio/opus"}}}}}),
        ("input_audio_buffer.append", {"audio": "%%%"}),
        ("input_audio_buffer.append", {"audio": base64.b64encode(b"odd").decode()}),
        ("conversation.item.truncate", {"item_id": "item_1", "audio_end_ms": -1}),
        ("conversation.item.delete", {}),
        ("output_audio_buffer.clear", {}),
        ("something.else", {}),
    ],
)
def test_a_bad_message_is_refused_by_itself(kind: str, fields: dict[str, Any]) -> None:
    protocol = _begun()
    with pytest.raises(ProtocolError) as error:
        _do(protocol, kind, **fields)
    (told,) = [_checked(message) for message in protocol.refused(error.value)]
    assert told["error"]["event_id"] == "e"
    assert isinstance(_do(protocol, "input_audio_buffer.append", audio=_SOUND)[0], Hear)


def test_the_end_closes_what_is_open_and_says_why() -> None:
    protocol = _begun()
    _told(protocol, *_speech(2, " Hello"))
    events = [
        _checked(message) for message in protocol.ended(CallEnd("drained", "the server is shutting down"))
    ]
    assert [event["type"] for event in events] == [*_END, "error"]
    assert events[-1]["error"]["type"] == "server_error"
    assert list(protocol.ended(CallEnd("left"))) == []


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_names = ("session", "audio", "item", "response", "metadata", "instructions", "item_id", "output", "format")


@given(
    st.lists(
        st.tuples(st.sampled_from(_KNOWN), st.dictionaries(st.sampled_from(_names), _values)), max_size=6
    )
)
def test_no_message_breaks_a_session(messages: list[tuple[str, dict[str, Any]]]) -> None:
    """Whatever members a message has: an answer, or a ProtocolError."""
    protocol = RealtimeProtocol(_SERVER)
    for kind, fields in messages:
        try:
            _do(protocol, kind, **fields)
        except ProtocolError as error:
            assert "accepted" in str(error) or "no effect" in str(error) or "cancelled" in str(error)
    assert len(_told(protocol, *_speech(2, " Hello"))) == 6
