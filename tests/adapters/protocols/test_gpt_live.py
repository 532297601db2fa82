"""GPT-Live's events, without a server, beside the types of OpenAI's own package where it is installed."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="needs the extra `server`: pip install moshi-agent[server]")

from moshi_agent import (
    AudioChunk,
    BotStarted,
    BotStopped,
    Event,
    ReferenceEnded,
    ReferenceWanted,
    Referral,
    TextToken,
    UserSaid,
    UserText,
)
from moshi_agent_adapters.protocols.call_protocol import (
    CallEnd,
    HangUp,
    Hear,
    Hold,
    Order,
    ProtocolError,
    Refer,
    Say,
    Send,
)
from moshi_agent_adapters.protocols.gpt_live import LiveProtocol, LiveServer

_AT = {"frame": 3, "media_s": 0.24, "wall_s": 0.0}
_SERVER = LiveServer(model="tiny", session_id="sess_1", expires_at=1_800_000_000)
_KNOWN = [
    "session.start",
    "session.update",
    "session.close",
    "session.input_audio.append",
    "session.input_audio.mute",
    "session.input_audio.unmute",
    "session.instructions.append",
    "session.commentary.append",
    "decision.create",
    "response.create",
    "response.item.create",
    "session.output_audio.fixture.play",
]


def _started(server: LiveServer = _SERVER, **session: Any) -> LiveProtocol:
    protocol = LiveProtocol(server)
    start = {"type": "session.start", "event_id": "s", "session": {"model": "gpt-live-1", **session}}
    assert list(protocol.receive(json.dumps(start))) == []
    return protocol


def _do(protocol: LiveProtocol, kind: str, **fields: Any) -> list[Order]:
    return list(protocol.receive(json.dumps({"type": kind, "event_id": "e", **fields})))


def _sent(orders: list[Order]) -> list[dict[str, Any]]:
    return [_checked(order.message) for order in orders if isinstance(order, Send)]


def _checked(message: str | bytes) -> dict[str, Any]:
    """The event, which OpenAI's own types accept without a warning."""
    event = json.loads(message)
    live = pytest.importorskip("openai.types.live", reason="the openai package is not installed")
    from pydantic import TypeAdapter

    parsed = TypeAdapter(live.ServerEvent).validate_python(event)
    assert parsed.type == event["type"]
    return event


def test_a_session_without_a_model_has_the_one_that_is_served() -> None:
    protocol = LiveProtocol(_SERVER)
    assert _do(protocol, "session.start", session={}) == []
    assert protocol.wanted is not None
    (started,) = [_checked(message) for message in protocol.began()]
    assert started["session"]["model"] == "tiny"


def test_a_session_starts_as_it_was_asked_for() -> None:
    protocol = _started(
        instructions=" Be brief. ",
        audio={"format": {"type": "audio/pcm", "rate": 16_000}, "output": {"voice": "v"}},
    )
    wanted = protocol.wanted
    assert wanted is not None
    assert (wanted.role, wanted.voice, wanted.output_sample_rate) == ("Be brief.", "v", 16_000)
    (started,) = [_checked(message) for message in protocol.began()]
    assert started["type"] == "session.started"
    assert started["client_event_id"] == "s"
    assert started["session"]["id"] == "sess_1"
    assert started["session"]["model"] == "tiny"
    assert started["session"]["audio"]["format"] == {"type": "audio/pcm", "rate": 16_000}


@pytest.mark.parametrize(
    ("session", "code"),
    [
        ({"model": "gpt-realtime"}, "model_not_found"),
        ({"model": 5}, "model_not_found"),
        ({"audio": {"format": {"type": "audio/mp3"}}}, "unsupported_audio_format"),
        ({"audio": {"format": {"type": "audio/pcm", "rate": 8000}}}, "unsupported_audio_format"),
        ({"audio": {"format": {"type": ["audio/pcm"]}}}, "unsupported_audio_format"),
        ({"audio": "loud"}, "invalid_value"),
        ({"instructions": 3}, "invalid_value"),
    ],
)
def test_a_session_that_cannot_be_is_refused(session: dict[str, Any], code: str) -> None:
    with pytest.raises(ProtocolError) as error:
        _started(**session)
    assert error.value.code == code
    assert error.value.client_event_id == "s"


@pytest.mark.parametrize(
    ("kind", "rate", "data"),
    [
        ("audio/pcm", 24_000, np.array([1000, -1000], "<i2").tobytes()),
        ("audio/pcm", 16_000, np.array([1000, -1000], "<i2").tobytes()),
        ("audio/pcmu", 8000, b"\xce\x4e"),
        ("audio/pcma", 8000, b"\xfa\x7a"),
    ],
)
def test_audio_is_heard_and_said_in_the_format_of_the_session(kind: str, rate: int, data: bytes) -> None:
    protocol = _started(audio={"format": {"type": kind, "rate": rate}})
    (order,) = _do(protocol, "session.input_audio.append", audio=base64.b64encode(data).decode())
    assert isinstance(order, Hear)
    assert order.sample_rate == rate
    assert order.pcm.tolist() == pytest.approx([1000, -1000], abs=40)
    chunk = AudioChunk(**_AT, pcm=order.pcm.astype(np.float32) / 32767, sample_rate=rate)
    (message,) = protocol.tell(chunk)
    assert base64.b64decode(_checked(message)["delta"]) == data


def test_a_wish_without_effect_is_told() -> None:
    (message,) = _started().left_out("tiny takes no role")
    event = _checked(message)
    assert (event["type"], event["message"]) == ("info", "tiny takes no role")


def test_what_is_said_comes_with_its_time() -> None:
    protocol = _started()
    first, second = (
        _checked(message)
        for text in (" hello", " you")
        for message in protocol.tell(TextToken(**_AT, text=text, token=5, aligned_frame=5))
    )
    assert (first["delta"], first["start_ms"], first["end_ms"]) == ("hello", 400, 480)
    assert second["delta"] == " you"
    assert list(protocol.tell(BotStarted(**_AT))) == []


def test_what_the_user_says_comes_with_its_time() -> None:
    protocol = _started()
    (message,) = protocol.tell(UserText(**_AT, text=" hello", start=1.23))
    event = _checked(message)
    assert event["type"] == "session.input_transcript.delta"
    assert (event["delta"], event["start_ms"], event["end_ms"]) == ("hello", 1230, 1310)


def test_every_turn_of_both_sides_begins_with_a_word() -> None:
    protocol = _started()
    events: list[Event] = []
    for turn in range(2):
        at = {"frame": 100 * turn, "media_s": 8.0 * turn, "wall_s": 0.0}
        later = at | {"frame": 100 * turn + 20}
        events += [
            *(TextToken(**at, text=text, token=5, aligned_frame=5) for text in (" It", " is.")),
            BotStopped(**at),
            AudioChunk(**later, pcm=np.zeros(1920, np.float32), sample_rate=24_000),
            *(UserText(**later, text=text, start=1.0) for text in (" What", " now?")),
            UserSaid(**later, text="What now?", start=1.0, end=2.0),
        ]
    told = [_checked(message) for event in events for message in protocol.tell(event)]
    deltas = [event["delta"] for event in told if "transcript" in event["type"]]
    assert deltas == ["It", " is.", "What", " now?"] * 2


def test_a_muted_client_is_heard_as_silence() -> None:
    protocol = _started()
    audio = base64.b64encode(np.full(100, 5000, "<i2").tobytes()).decode()
    assert _sent(_do(protocol, "session.input_audio.mute"))[0]["type"] == "session.input_audio.muted"
    (order,) = _do(protocol, "session.input_audio.append", audio=audio)
    assert isinstance(order, Hear)
    assert not order.pcm.any()
    assert len(order.pcm) == 100
    assert _sent(_do(protocol, "session.input_audio.unmute"))[0]["type"] == "session.input_audio.unmuted"
    (order,) = _do(protocol, "session.input_audio.append", audio=audio)
    assert isinstance(order, Hear)
    assert order.pcm.all()


def test_context_is_acknowledged_and_said_to_be_of_no_use() -> None:
    for kind in ("instructions", "thinking", "commentary"):
        orders = _do(_started(), f"session.{kind}.append", content="Be kind.", delegation_id=None)
        appended, info = _sent(orders)
        assert appended["type"] == f"session.{kind}.appended"
        assert info["type"] == "info"
        assert info["client_event_id"] == "e"


def test_commentary_is_spoken_where_it_is_set_up_so() -> None:
    server = LiveServer(model="tiny", session_id="s", expires_at=0, say_commentary=True)
    orders = _do(_started(server), "session.commentary.append", content="Hello there.", delegation_id=None)
    assert orders[-1] == Say("Hello there.", "e", alone=True)
    assert len(_sent(orders)) == 1
    with pytest.raises(ProtocolError, match="3000 characters, which would be spoken; accepted: at most 2000"):
        _do(_started(server), "session.commentary.append", content="a" * 3000, delegation_id=None)


def test_an_update_is_confirmed_with_the_whole_session() -> None:
    protocol = _started(delegation={"type": "responses", "responses": {"model": "m", "instructions": "Hm."}})
    delegation = {"type": "responses", "responses": {"model": "n"}}
    (event,) = _sent(_do(protocol, "session.update", session={"delegation": delegation}))
    assert event["type"] == "session.updated"
    assert event["session"]["delegation"]["responses"] == {"model": "n", "instructions": "Hm."}
    assert event["session"]["id"] == "sess_1"
    with pytest.raises(ProtocolError, match="accepted: responses, as the session has begun"):
        _do(protocol, "session.update", session={"delegation": {"type": "client"}})


def _wanted(number: int) -> ReferenceWanted:
    return ReferenceWanted(**_AT, id=number, by="rule", turns=())


def test_a_client_is_told_of_a_delegation_and_its_commentary_is_the_answer() -> None:
    protocol = _started(delegation={"type": "client"})
    (event,) = [_checked(message) for message in protocol.tell(_wanted(1))]
    assert event["type"] == "session.delegation.created"
    assert event["delegation"] == {"id": event["delegation"]["id"], "type": "delegation", "target": "client"}
    fields = {"content": "It is here.", "delegation_id": event["delegation"]["id"]}
    _, order = _do(protocol, "session.commentary.append", **fields)
    assert order == Refer("It is here.", 1, True, "e")
    assert isinstance(order, Refer)
    assert list(order.on_outcome(Referral("taken"))) == []
    _, order = _do(protocol, "session.commentary.append", **fields)
    assert order == Say("It is here.", "e", alone=True)  # what follows on the answer
    list(protocol.tell(_wanted(2)))
    _, order = _do(protocol, "session.commentary.append", **fields)
    assert isinstance(order, Refer)  # for a request that is over, of which the engine knows
    (info,) = map(_checked, order.on_outcome(Referral("superseded", "there is a newer one")))
    assert info["code"] == "delegation_superseded"


def test_a_delegation_that_ends_without_an_answer_is_told() -> None:
    protocol = _started()
    list(protocol.tell(_wanted(1)))
    (event,) = map(_checked, protocol.tell(ReferenceEnded(**_AT, id=1, reason="timed_out")))
    assert (event["type"], event["code"]) == ("info", "delegation_timed_out")
    assert list(protocol.tell(ReferenceEnded(**_AT, id=1, reason="answered", text="Hm."))) == []


def test_a_delegation_that_was_never_made_cannot_be_answered() -> None:
    with pytest.raises(ProtocolError, match="there is no delegation 'delegation_1'"):
        _do(_started(), "session.commentary.append", content="Hm.", delegation_id="delegation_1")


def test_thinking_is_a_reference_where_the_model_takes_one() -> None:
    server = LiveServer(model="tiny", session_id="s", expires_at=0, takes_references=True)
    protocol = _started(server)
    list(protocol.tell(_wanted(1)))
    orders = _do(protocol, "session.thinking.append", content="Berlin", delegation_id="delegation_1")
    assert orders[-1] == Refer("Berlin", 1, False, "e")
    assert len(orders) == 2
    orders = _do(_started(server), "session.thinking.append", content="Berlin", delegation_id=None)
    assert orders[-1] == Refer("Berlin", None, False, "e")


@pytest.mark.parametrize(
    ("session", "code"),
    [
        ({"delegation": {"type": "decisions", "decisions": {}}}, "unsupported_delegation"),
        ({"triggers": [{"type": "decisions"}]}, "unsupported"),
    ],
)
def test_decisions_and_triggers_are_refused(session: dict[str, Any], code: str) -> None:
    with pytest.raises(ProtocolError, match="accepted: ") as error:
        _started(**session)
    assert error.value.code == code


def test_delegation_to_responses_without_a_language_model_says_so_and_the_call_goes_on() -> None:
    protocol = _started(delegation={"type": "responses", "responses": {"model": "m"}})
    _, info = map(_checked, protocol.began())
    assert info["code"] == "no_backend"
    assert protocol.wanted is not None
    assert protocol.wanted.lookup is None


@pytest.mark.parametrize("rate", [24_000, 16_000])
def test_a_fixture_is_played_exactly_and_nothing_is_heard_meanwhile(rate: int) -> None:
    protocol = _started(audio={"format": {"type": "audio/pcm", "rate": rate}})
    tone = (8000 * np.sin(np.arange(4800) / 20)).astype("<i2")
    audio = base64.b64encode(tone.tobytes()).decode()
    hold, *rest = _do(protocol, "session.output_audio.fixture.play", audio=audio)
    assert isinstance(hold, Hold)
    assert hold.seconds >= 0.2
    assert _sent(rest)[0]["type"] == "session.output_audio.fixture.playing"
    with pytest.raises(ProtocolError, match="is being played"):
        _do(protocol, "session.commentary.append", content="Hm.", delegation_id=None)
    (heard,) = _do(protocol, "session.input_audio.append", audio=audio)
    assert isinstance(heard, Hear)
    assert not heard.pcm.any()
    noise = np.full(rate * 2 // 25, 0.5, np.float32)
    chunk = AudioChunk(**_AT, pcm=noise, sample_rate=rate)
    events = [_checked(message) for _ in range(4) for message in protocol.tell(chunk)]
    assert [event["type"].rpartition(".")[2] for event in events] == ["delta"] * 3 + ["played", "delta"]
    sound = np.frombuffer(b"".join(base64.b64decode(event["delta"]) for event in events[:3]), "<i2")
    length = 4800 * rate // 24_000
    if rate == 24_000:
        assert (sound[:length] == tone).all()
    assert np.abs(sound[:length]).max() > 7000
    assert not sound[length:].any()
    assert np.frombuffer(base64.b64decode(events[-1]["delta"]), "<i2").any()


@pytest.mark.parametrize("data", [b"", b"abc", bytes(48_000 * 31)])
def test_a_fixture_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="accepted: ") as error:
        _do(_started(), "session.output_audio.fixture.play", audio=base64.b64encode(data).decode())
    assert error.value.code == "invalid_audio"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("response.create", "unsupported_event"),
        ("decision.create", "unsupported_event"),
        ("session.dance", "unknown_event"),
    ],
)
def test_events_that_are_unknown_or_of_no_use_are_refused(kind: str, code: str) -> None:
    with pytest.raises(ProtocolError) as error:
        _do(_started(), kind)
    assert error.value.code == code
    assert error.value.client_event_id == "e"


def test_a_session_that_is_closed_says_why_and_for_how_long_it_was() -> None:
    protocol = _started()
    list(protocol.began())
    _do(protocol, "session.input_audio.append", audio=base64.b64encode(bytes(96_000)).decode())
    assert _do(protocol, "session.close") == [HangUp()]
    (closed,) = [_checked(message) for message in protocol.ended(CallEnd("hung_up"))]
    assert closed["reason"] == "close_requested"
    assert closed["client_event_id"] == "e"
    assert closed["usage"] == {"seconds": 2.0}


def test_a_refusal_is_an_error_alone() -> None:
    (event,) = map(_checked, _started().ended(CallEnd("refused", "no row is free", "capacity_exceeded")))
    assert event["error"]["type"] == "server_error"
    assert event["error"]["code"] == "capacity_exceeded"


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (CallEnd("drained", "shutting down"), "remote_hangup"),
        (CallEnd("failed", "broken"), "connection_lost"),
        (CallEnd("bad_message", "no JSON", "invalid_json"), "connection_lost"),
        (CallEnd("idle", "nothing came"), "expired"),
    ],
)
def test_an_end_that_went_wrong_is_an_error_and_a_reason(end: CallEnd, reason: str) -> None:
    protocol = _started()
    list(protocol.began())
    error, closed = map(_checked, protocol.ended(end))
    assert error["error"]["message"] == end.text
    assert closed["reason"] == reason


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{}", "invalid_json"),
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("[]", "invalid_event"),
        ('{"type": 3}', "invalid_event"),
        ('{"type": "session.close", "event_id": 3}', "invalid_event"),
        ('{"type": "session.start", "session": {}}', "session_already_started"),
        ('{"type": "session.input_audio.append"}', "invalid_message"),
        ('{"type": "session.input_audio.append", "audio": "%%%"}', "invalid_audio"),
        ('{"type": "session.input_audio.append", "audio": "é"}', "invalid_audio"),
        ('{"type": "session.input_audio.append", "audio": "AAA="}', None),
        ('{"type": "session.input_audio.append", "audio": "AA=="}', "invalid_audio"),
    ],
)
def test_what_is_no_event_is_refused(message: str | bytes, code: str | None) -> None:
    protocol = _started()
    if code is None:
        assert len(list(protocol.receive(message))) == 1
        return
    with pytest.raises(ProtocolError) as error:
        list(protocol.receive(message))
    assert error.value.code == code


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_fields = st.sampled_from(
    [
        "session",
        "audio",
        "content",
        "event_id",
        "model",
        "format",
        "delegation",
        "delegation_id",
        "rate",
        "item",
    ]
)
_events = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(_KNOWN) | st.text(max_size=20),
    st.dictionaries(_fields, _json | st.dictionaries(_fields, _json, max_size=4), max_size=4),
)


@given(st.lists(_events, max_size=6), st.booleans())
def test_no_event_does_anything_else(events: list[dict[str, Any]], is_started: bool) -> None:
    protocol = _started() if is_started else LiveProtocol(_SERVER)
    try:
        for event in events:
            for order in protocol.receive(json.dumps(event)):
                assert isinstance(order, Hear | Send | HangUp | Hold)
                if isinstance(order, Send):
                    assert json.loads(order.message)["type"]
    except ProtocolError as error:
        assert str(error)


@given(st.text(max_size=200))
def test_no_text_does_anything_else(text: str) -> None:
    with pytest.raises(ProtocolError):
        list(LiveProtocol(_SERVER).receive(text))
