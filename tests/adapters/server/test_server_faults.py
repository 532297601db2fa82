"""Clients that do what they should not: each ends its own call, in its protocol's form, and no other."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from moshi_agent import Engine, Session
from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.server import ServerConfig
from tests.adapters.server.bad_clients import START, append, chat, deaf_socket, frame, live, opus, upgrade
from tests.adapters.server.server_calls import Running, running, wait_for
from tests.adapters.server.server_clients import ask_kyutai, question, rest
from tests.adapters.webrtc.webrtc_asking import refused_offer, request
from tests.adapters.webrtc.webrtc_peer import Caller

pytestmark = pytest.mark.real_time


@pytest.fixture(scope="module")
def impatient() -> Iterator[Running]:
    """A server that waits for nobody."""
    engine = Engine.load("tiny", device="cpu", capacity=4, admit_by_time=False)
    config = ServerConfig(idle_s=1.5, start_s=1.0, ahead_s=3.0, send_s=1.0, starts_per_minute=10_000)
    with running(engine, config, ws_ping_interval=1.0, ws_ping_timeout=1.0) as server:
        yield server


def _last_chat_error(connection: ClientConnection) -> str:
    messages = [message for message in rest(connection) if isinstance(message, bytes)]
    assert messages[-1][0] == Kind.ERROR
    return messages[-1][1:].decode()


def _live_errors(connection: ClientConnection) -> list[str]:
    events = [json.loads(message) for message in rest(connection)]
    assert events[-1]["type"] == "session.closed"
    return [event["error"]["code"] for event in events if event["type"] == "error"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "empty"),
        ("text", "binary"),
        (b"\x04" + bytes(300_000), "at most"),
        (b"\x01" + opus(0.2)[:-3] + b"\xff\xff\xff", "checksum"),
    ],
)
def test_a_bad_message_over_kyutais_protocol_is_refused_and_the_call_goes_on(
    impatient: Running, message: bytes | str, said: str
) -> None:
    with chat(impatient) as connection:
        connection.send(message)
        connection.send(Kind.PING.message())
        answers = [next(one for one in connection if one[:1] not in (b"\x01", b"\x02")) for _ in range(2)]
        assert answers[0][:1] == bytes([Kind.ERROR]) and said in answers[0][1:].decode()
        assert answers[1] == Kind.PING.message()
    wait_for(lambda: not impatient.live, 5)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\x01" + b"garbage" * 20, "Ogg"),
        (b"\x01" + opus(0.2)[:-3] + b"garbage", "Ogg"),
        (b"\x01" + opus(0.2)[:40] + b"!" + opus(0.2)[41:], "OpusHead"),
    ],
)
def test_a_stream_that_cannot_be_decoded_any_more_ends_the_call(
    impatient: Running, message: bytes, said: str
) -> None:
    with chat(impatient) as connection:
        connection.send(message)
        assert said in _last_chat_error(connection)
        assert connection.close_code == 1008
    wait_for(lambda: not impatient.live, 5)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "invalid_json"),
        ("{oops", "invalid_json"),
        (b"\x00\x01", "invalid_json"),
        ('{"type": "session.input_audio.append", "audio": "???"}', "invalid_audio"),
        (append(b"odd"), "invalid_audio"),
        (json.dumps({"type": "x", "padding": "y" * 300_000}), "message_too_long"),
    ],
)
def test_a_bad_message_over_gpt_live_is_refused_and_the_call_goes_on(
    impatient: Running, message: str | bytes, code: str
) -> None:
    with live(impatient) as connection:
        connection.send(message)
        connection.send('{"type": "session.input_audio.mute", "event_id": "mine"}')
        told: list[dict[str, Any]] = []
        while len(told) < 2:
            event = json.loads(connection.recv(timeout=10))
            if event["type"] in ("error", "session.input_audio.muted"):
                told.append(event)
        assert told[0]["error"]["code"] == code
        assert told[1]["client_event_id"] == "mine"
    wait_for(lambda: not impatient.live, 5)


@pytest.mark.parametrize(
    ("message", "code"),
    [("{oops", "invalid_json"), (b"\x00", "invalid_json"), (append(bytes(3840)), "invalid_message")],
)
def test_a_bad_message_before_the_start_is_refused_and_the_session_starts(
    impatient: Running, message: str | bytes, code: str
) -> None:
    with connect(f"{impatient.websocket}/v1/live/sessions") as connection:
        connection.send(message)
        assert json.loads(connection.recv(timeout=10))["error"]["code"] == code
        connection.send(START)
        assert json.loads(connection.recv(timeout=10))["type"] == "session.started"
    wait_for(lambda: not impatient.live, 5)


def test_bad_messages_before_the_start_are_metered(impatient: Running) -> None:
    with connect(f"{impatient.websocket}/v1/live/sessions") as connection:
        with suppress(ConnectionClosed):
            for _ in range(3000):
                connection.send("{oops")
        assert {json.loads(message)["error"]["code"] for message in rest(connection)} == {"invalid_json"}
        assert connection.close_code == 1008


def test_a_session_that_cannot_be_ends_before_it_starts(impatient: Running) -> None:
    with connect(f"{impatient.websocket}/v1/live/sessions") as connection:
        connection.send(json.dumps({"type": "session.start", "session": {"model": "another"}}))
        (event,) = [json.loads(message) for message in rest(connection)]
        assert event["error"]["code"] == "model_not_found"
        assert connection.close_code == 1008


@pytest.mark.parametrize(
    "message",
    [
        "{oops",
        json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(b"odd").decode()}),
        json.dumps({"type": "nothing.known"}),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_bad_message_over_realtime_is_refused_and_the_call_goes_on(
    impatient: Running, message: str, times: int
) -> None:
    """Be it the first one or a later one."""
    with connect(f"{impatient.websocket}/v1/realtime?model=tiny") as connection:
        assert json.loads(connection.recv(timeout=10))["type"] == "session.created"
        for _ in range(times):
            connection.send(message)
            assert json.loads(connection.recv(timeout=10))["type"] == "error"
            connection.send(json.dumps({"type": "session.update", "session": {"type": "realtime"}}))
            assert json.loads(connection.recv(timeout=10))["type"] == "session.updated"
    wait_for(lambda: not impatient.live, 5)


def test_ten_times_real_time(impatient: Running) -> None:
    with chat(impatient) as connection:
        connection.send(b"\x01" + opus(6.0))
        assert "ahead of real time" in _last_chat_error(connection)
    with live(impatient) as connection:
        with suppress(ConnectionClosed):  # it need not wait for the last of them
            for _ in range(60):
                connection.send(append(bytes(4800)))
        assert _live_errors(connection) == ["too_fast"]
    wait_for(lambda: not impatient.live, 5)


def test_a_few_bytes_that_hold_minutes_of_audio(impatient: Running) -> None:
    """Packets of one byte can stand for 60 ms: as many as fit on pages would be an hour."""
    from moshi_agent_adapters.protocols.ogg import OggWriter

    ogg = OggWriter(3)
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    pages = ogg.page([head], 0) + ogg.page([b"OpusTags" + bytes(8)], 0)
    pages += b"".join(ogg.page([b"\x18"] * 255, 0) for _ in range(100))
    with chat(impatient) as connection:
        connection.send(b"\x01" + pages)
        assert "ahead of real time" in _last_chat_error(connection)
    wait_for(lambda: not impatient.live, 5)


@pytest.mark.parametrize("begin", [chat, live])
def test_a_client_that_sends_nothing_stays(
    impatient: Running, begin: Callable[[Running], AbstractContextManager[ClientConnection]]
) -> None:
    """Its microphone may be muted; that it lives, its pongs tell."""
    with begin(impatient) as connection:
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            assert connection.recv(timeout=5)
        assert impatient.live == 1
    wait_for(lambda: not impatient.live, 5)


@pytest.mark.slow
def test_silent_calls_of_one_address_make_room_for_others(impatient: Running) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(live(impatient)) for _ in range(4)]
        time.sleep(1.7)  # longer than a call may be silent here when others wait
        with live(impatient) as newcomer:
            assert json.loads(newcomer.recv(timeout=10))["type"] == "session.output_audio.delta"
            codes = [code for connection in silent[:1] for code in _live_errors(connection)]
        assert codes == ["idle"]
    wait_for(lambda: not impatient.live, 5)


def _hear_no_error(connection: ClientConnection, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert json.loads(connection.recv(timeout=5))["type"] != "error"


def test_what_a_stalled_network_brings_at_once_is_heard_or_left_out(impatient: Running) -> None:
    """Five seconds of audio after five seconds of nothing are not ahead of real time."""
    with live(impatient) as connection:
        connection.send(append(bytes(4800)))
        _hear_no_error(connection, 5.0)
        for _ in range(50):
            connection.send(append(bytes(4800)))
        _hear_no_error(connection, 2.0)
    wait_for(lambda: not impatient.live, 5)


def test_messages_without_audio_are_metered(impatient: Running) -> None:
    with chat(impatient) as connection:
        with suppress(ConnectionClosed):
            for _ in range(3000):
                connection.send(Kind.CONTROL.message(b"\x00"))
        assert "without audio" in _last_chat_error(connection)
    wait_for(lambda: not impatient.live, 5)


def test_messages_with_hardly_any_audio_are_metered(impatient: Running) -> None:
    """One sample in each is not ahead of real time, and work all the same."""
    with live(impatient) as connection:
        with suppress(ConnectionClosed):
            for _ in range(3000):
                connection.send(append(b"\0\0"))
        assert any("hardly any" in message for message in rest(connection))
    wait_for(lambda: not impatient.live, 5)


def test_a_client_that_never_starts_its_session(impatient: Running) -> None:
    with connect(f"{impatient.websocket}/v1/live/sessions") as connection:
        (event,) = [json.loads(message) for message in rest(connection)]
        assert event["error"]["code"] == "no_start" and "within 1 s" in event["error"]["message"]


def test_a_client_that_never_reads(impatient: Running) -> None:
    """Its receive buffer is small and full, and it does not answer pings either."""
    raw = deaf_socket(impatient)
    upgrade(raw, "/v1/live/sessions")
    raw.sendall(frame(START.encode()))
    wait_for(lambda: impatient.live == 1)
    with pytest.raises(OSError):
        for _ in range(2000):
            raw.sendall(frame(append(bytes(3840)).encode()))
            time.sleep(0.08)
            if not impatient.live:
                raise OSError("the row is free")
    wait_for(lambda: not impatient.live, 5)
    raw.close()


def test_a_connection_that_is_only_half_there(impatient: Running) -> None:
    """The client is gone without a word: no close, no reset, no answer to pings."""
    raw = socket.create_connection(("127.0.0.1", impatient.port))
    upgrade(raw, "/api/chat")
    wait_for(lambda: impatient.live == 1)
    wait_for(lambda: not impatient.live, 5)
    raw.close()


def test_a_client_that_vanishes_frees_its_row(impatient: Running) -> None:
    raw = socket.create_connection(("127.0.0.1", impatient.port))
    upgrade(raw, "/api/chat")
    wait_for(lambda: impatient.live == 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()  # with a reset
    wait_for(lambda: not impatient.live, 5)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/live/sessions"])
def test_who_leaves_while_the_engine_begins_gives_its_place_back(
    impatient: Running, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine takes its time, and the client does not wait for it."""

    async def late(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(impatient.server, "open", late)
    with connect(impatient.websocket + path) as connection:
        if path != "/api/chat":
            connection.send(START)
        wait_for(lambda: impatient.server.addresses.live == 1)
    wait_for(lambda: not impatient.server.addresses.live, 5)


def test_what_comes_while_the_engine_begins_is_heard_in_order(
    impatient: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = impatient.server.open

    async def late(*args: Any) -> Session:
        await asyncio.sleep(0.5)
        return await begin(*args)

    monkeypatch.setattr(impatient.server, "open", late)
    with connect(f"{impatient.websocket}/v1/live/sessions") as connection:
        connection.send(START)
        for number in range(20):
            connection.send(json.dumps({"type": "session.input_audio.mute", "event_id": str(number)}))
        told = list[str]()
        while len(told) < 20:
            event = json.loads(connection.recv(timeout=10))
            if event["type"] == "session.input_audio.muted":
                told.append(event["client_event_id"])
        assert told == [str(number) for number in range(20)]
    wait_for(lambda: not impatient.live, 5)


def test_others_hear_nothing_of_it(impatient: Running) -> None:
    """One asks its question while others misbehave in every way."""

    async def disturb() -> None:
        bad = [b"\x01garbage", b"", b"\x01" + opus(6.0), b"\x04" + bytes(300_000)]
        while True:
            for message in bad:
                with chat(impatient) as connection:
                    connection.send(message)
                    await asyncio.sleep(0.05)

    async def ask() -> str:
        task = asyncio.create_task(asyncio.to_thread(asyncio.run, asyncio.wait_for(disturb(), 6)))
        heard = await ask_kyutai(impatient.websocket, question("What is your name?"), "talking model.")
        await asyncio.gather(task, return_exceptions=True)
        return heard.text

    assert "My name is Moshi, and I am a tiny talking model." in asyncio.run(ask())
    wait_for(lambda: not impatient.live, 5)


def test_limits_of_an_address_are_errors_of_the_protocol() -> None:
    engine = Engine.load("tiny", device="cpu", capacity=4, admit_by_time=False)
    with running(engine, ServerConfig(calls_per_address=1, starts_per_minute=3)) as server:
        with chat(server), connect(f"{server.websocket}/api/chat") as second:
            assert "1 call at once" in _last_chat_error(second)
            assert second.close_code == 1013
        wait_for(lambda: not server.server.addresses.live)
        with live(server):
            pass
        wait_for(lambda: not server.server.addresses.live)
        with chat(server):
            pass
        wait_for(lambda: not server.server.addresses.live)
        with connect(f"{server.websocket}/v1/live/sessions") as fourth:
            (event,) = [json.loads(message) for message in rest(fourth)]
            assert event["error"]["code"] == "too_many_calls"
            assert "3 calls a minute" in event["error"]["message"]


def test_calls_over_webrtc_are_under_the_same_limits() -> None:
    async def call_twice(server: Running) -> tuple[int, str]:
        caller = Caller()
        offer = {"sdp": await caller.offer()}
        began, answer = await asyncio.to_thread(request, "POST", f"{server.http}/api/webrtc", offer)
        assert began == 201
        await caller.accept(answer["sdp"])
        await caller.wait_for(lambda: caller.has("stats"))
        status, refusal = await refused_offer(server.http)
        await caller.hang_up()
        return status, refusal["error"]["code"]

    engine = Engine.load("tiny", device="cpu", capacity=4, admit_by_time=False)
    with running(engine, ServerConfig(calls_per_address=1)) as server:
        assert asyncio.run(call_twice(server)) == (429, "too_many_calls")


def test_a_call_has_an_end() -> None:
    engine = Engine.load("tiny", device="cpu", capacity=4, admit_by_time=False)
    with running(engine, ServerConfig(longest_call_s=1.0)) as server, live(server) as connection:
        events = [json.loads(message) for message in rest(connection)]
        assert events[-1]["reason"] == "expired"
        assert connection.close_code == 1000


def test_an_engine_that_fails_ends_the_calls_with_an_error() -> None:
    engine = Engine.load("tiny", device="cpu", capacity=2, admit_by_time=False, shared=False)
    with running(engine) as server, live(server) as connection:
        engine.close()
        events = [json.loads(message) for message in rest(connection)]
        assert events[-1]["type"] == "session.closed"
        assert any(event["type"] == "error" for event in events)
