"""Transcription sessions of OpenAI's Realtime protocol, without a server, beside OpenAI's own types."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from moshi_agent import Event, UserSaid, UserStarted, UserStopped, UserText
from moshi_agent_adapters.protocols.call_protocol import CallEnd, Hear, Order, ProtocolError, Send, Wanted
from moshi_agent_adapters.protocols.realtime import RealtimeServer
from moshi_agent_adapters.protocols.realtime_transcription import RealtimeTranscriptionProtocol

_SERVER = RealtimeServer(model="stt", session_id="sess_1", expires_at=1_800_000_000)
_SOUND = base64.b64encode(bytes(960)).decode()
_DELTA = "conversation.item.input_audio_transcription.delta"
_COMPLETED = "conversation.item.input_audio_transcription.completed"


def _checked(message: str | bytes) -> dict[str, Any]:
    """The event, which OpenAI's own types accept."""
    realtime = pytest.importorskip("openai.types.realtime", reason="the openai package is not installed")
    from pydantic import TypeAdapter

    event = json.loads(message)
    assert TypeAdapter(realtime.RealtimeServerEvent).validate_python(event).type == event["type"]
    return event


def _do(protocol: RealtimeTranscriptionProtocol, kind: str, **fields: Any) -> list[Order]:
    return list(protocol.receive(json.dumps({"type": kind, "event_id": "e", **fields})))


def _sent(orders: list[Order]) -> list[dict[str, Any]]:
    return [_checked(order.message) for order in orders if isinstance(order, Send)]


def _told(protocol: RealtimeTranscriptionProtocol, *events: Event) -> list[dict[str, Any]]:
    return [_checked(message) for event in events for message in protocol.tell(event)]


def _at(frame: int, kind: type[Event], **fields: Any) -> Event:
    return kind(frame=frame, media_s=frame * 0.08, wall_s=0.0, **fields)


_SPEECH = (
    _at(5, UserStarted),
    _at(9, UserText, text=" What", start=0.4),
    _at(12, UserText, text=" now?", start=0.7),
    _at(15, UserStopped),
    _at(20, UserSaid, text="What now?", start=0.4, end=0.9),
)


def _begun(**heard: Any) -> RealtimeTranscriptionProtocol:
    protocol = RealtimeTranscriptionProtocol(_SERVER)
    (created,) = [_checked(message) for message in protocol.connected()]
    assert created["session"]["type"] == "transcription" and protocol.wanted is None
    _do(protocol, "session.update", session={"type": "transcription", "audio": {"input": heard}})
    assert protocol.wanted == Wanted()
    return protocol


def _kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("input_audio_buffer.") for event in events]


def test_what_is_said_is_one_item() -> None:
    protocol = _begun()
    told = _told(protocol, *_SPEECH)
    item = ["speech_started", "conversation.item.added", _DELTA, _DELTA, "speech_stopped", "committed"]
    assert _kinds(told) == [*item, _COMPLETED, "conversation.item.done"]
    assert (told[0]["audio_start_ms"], told[4]["audio_end_ms"]) == (400, 1200)
    assert [event["delta"] for event in told if event["type"] == _DELTA] == ["What", " now?"]
    assert told[-2]["transcript"] == "What now?" and told[-2]["usage"]["seconds"] == 0.5
    assert told[-1]["item"]["content"][0]["transcript"] == "What now?"
    again = _told(protocol, *_SPEECH)
    assert again[0]["item_id"] != told[0]["item_id"]
    assert again[1]["previous_item_id"] == told[0]["item_id"]
    assert again[2]["delta"] == "What"


@pytest.mark.parametrize("after", [2, 5])
def test_a_client_that_cuts_the_audio_itself_commits_the_item_that_is_meant(after: int) -> None:
    """While it is being spoken, and when it is complete already."""
    protocol = _begun(turn_detection=None)
    told = _told(protocol, *_SPEECH[:after])
    (committed,) = _sent(_do(protocol, "input_audio_buffer.commit"))
    told += _told(protocol, *_SPEECH[after:])
    assert committed["type"] == "input_audio_buffer.committed"
    assert committed["item_id"] == told[0]["item_id"]
    assert _kinds(told).count("committed") == 0 and told[-2]["transcript"] == "What now?"


def test_a_commit_before_anything_is_written_names_the_item_to_come() -> None:
    protocol = _begun(turn_detection=None)
    (committed,) = _sent(_do(protocol, "input_audio_buffer.commit"))
    assert {e["item_id"] for e in _told(protocol, *_SPEECH) if "item_id" in e} == {committed["item_id"]}


def test_audio_that_begins_the_call_is_heard() -> None:
    protocol = RealtimeTranscriptionProtocol(_SERVER, "gpt-4o-transcribe")
    assert _do(protocol, "input_audio_buffer.append", audio=_SOUND) == []
    heard = [o for o in _do(protocol, "input_audio_buffer.append", audio=_SOUND) if isinstance(o, Hear)]
    assert [len(one.pcm) for one in heard] == [480, 480]


@pytest.mark.parametrize(
    ("kind", "fields", "code"),
    [
        ("session.update", {"session": {"type": "realtime"}}, "invalid_value"),
        (
            "session.update",
            {"session": {"audio": {"input": {"transcription": {"model": "tiny"}}}}},
            "model_not_found",
        ),
        (
            "session.update",
            {"session": {"audio": {"input": {"format": {"type": "mp3"}}}}},
            "unsupported_audio_format",
        ),
        ("response.create", {}, "unsupported_event"),
        ("conversation.item.create", {"item": {}}, "unsupported_event"),
        ("input_audio_buffer.append", {"audio": "?"}, "invalid_audio"),
    ],
)
def test_what_is_no_transcription_is_refused_by_itself(kind: str, fields: dict[str, Any], code: str) -> None:
    protocol = _begun()
    with pytest.raises(ProtocolError) as error:
        _do(protocol, kind, **fields)
    assert (error.value.code, error.value.client_event_id) == (code, "e")
    (told,) = [_checked(message) for message in protocol.refused(error.value)]
    assert told["error"]["code"] == code
    assert _kinds(_told(protocol, *_SPEECH))[-1] == "conversation.item.done"


def test_another_model_in_the_address_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no model 'gpt-realtime'; accepted: 'stt'"):
        list(RealtimeTranscriptionProtocol(_SERVER, "gpt-realtime").connected())


def test_the_end_is_an_error_where_it_is_one() -> None:
    protocol = _begun()
    assert list(protocol.ended(CallEnd("left"))) == []
    (error,) = [_checked(message) for message in protocol.ended(CallEnd("drained", "over"))]
    assert error["error"]["type"] == "server_error"
