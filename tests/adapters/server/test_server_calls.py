"""Conversations over both websocket protocols, with the built-in model, in real time."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from websockets.sync.client import connect

from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.protocols.live_audio import PCM_24K, LiveAudio
from tests.adapters.server.server_calls import Running, wait_for
from tests.adapters.server.server_clients import ask_kyutai, ask_live, question, rest

pytestmark = pytest.mark.real_time

ANSWER = "My name is Moshi, and I am a tiny talking model."


def test_a_question_over_kyutais_protocol_is_answered(server: Running) -> None:
    heard = asyncio.run(ask_kyutai(server.websocket, question("What is your name?"), ANSWER, "?seed=1"))
    assert heard.energy > 10
    assert set(heard.messages) == {Kind.AUDIO, Kind.TEXT}
    wait_for(lambda: not server.live)


@pytest.mark.parametrize(
    "audio",
    [PCM_24K, LiveAudio("audio/pcm", 16_000), LiveAudio("audio/pcmu", 8000), LiveAudio("audio/pcma", 8000)],
)
def test_a_question_over_gpt_live_is_answered(server: Running, audio: LiveAudio) -> None:
    asked = question("What is your name?")
    if audio.rate != 24_000:
        import soxr

        asked = soxr.resample(asked, 24_000, audio.rate).astype("float32")
    heard = asyncio.run(ask_live(server.websocket, asked, ANSWER, audio))
    assert heard.energy > 3
    closed = heard.messages[-1]
    assert closed["type"] == "session.closed"
    assert closed["reason"] == "close_requested"
    assert closed["usage"]["seconds"] > 1
    deltas = [each for each in heard.messages if each["type"] == "session.output_transcript.delta"]
    assert [each["start_ms"] for each in deltas] == sorted(each["start_ms"] for each in deltas)
    wait_for(lambda: not server.live)


def test_two_protocols_at_once_each_get_their_own_answer(server: Running) -> None:
    async def both() -> list[str]:
        first = ask_kyutai(server.websocket, question("What is your name?"), ANSWER)
        second = ask_live(server.websocket, question("Count to five."), "five")
        return [heard.text for heard in await asyncio.gather(first, second)]

    name, numbers = asyncio.run(both())
    assert "Moshi" in name
    assert "One, two, three, four, five" in numbers


def test_one_more_than_there_are_rows_is_refused_in_each_protocols_own_form(server: Running) -> None:
    start = json.dumps({"type": "session.start", "session": {"model": "tiny"}})
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(f"{server.websocket}/api/chat")) for _ in range(4)]
        assert [socket.recv() for socket in sockets] == [Kind.HANDSHAKE.message()] * 4
        assert server.get_json("/ready")["ready"] is False
        assert server.get("/ready")[0] == 503
        with connect(f"{server.websocket}/api/chat") as one_more:
            message = one_more.recv()
            assert isinstance(message, bytes)
            assert message[0] == Kind.ERROR
            assert "no row is free" in message[1:].decode()
            assert rest(one_more) == []
            assert one_more.close_code == 1013
        with connect(f"{server.websocket}/v1/live/sessions") as one_more:
            one_more.send(start)
            event = json.loads(one_more.recv())
            assert event["type"] == "error"
            assert event["error"]["code"] == "capacity_exceeded"
            assert rest(one_more) == []
            assert one_more.close_code == 1013
    wait_for(lambda: server.live == 0)
    assert server.get("/ready")[0] == 200


def test_a_query_that_cannot_be_is_refused_in_the_protocols_own_form(server: Running) -> None:
    with connect(f"{server.websocket}/api/chat?text_temperature=hot") as socket:
        message = socket.recv()
        assert message == b"\x05text_temperature='hot'; accepted: 0 to 5"


def test_machines_are_told_how_the_server_is(server: Running) -> None:
    assert server.get_json("/health") == {"status": "ok"}
    ready = server.get_json("/ready")
    assert ready["ready"] is True
    assert ready["rows"] == 4
    assert server.get_json("/v1/models")["data"][0]["id"] == "tiny"
    status, headers, body = server.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"moshi_agent_live_sessions" in body
    wait_for(lambda: b"\nmoshi_agent_event_loop_lag_seconds_count 0.0\n" not in server.get("/metrics")[2])
    assert b"\nmoshi_agent_event_loop_lag_seconds_count " in server.get("/metrics")[2]


def test_what_is_nowhere_is_an_error_of_openais_form(server: Running) -> None:
    status, headers, body = server.get("/v1/nowhere")
    assert status == 404
    assert headers["x-content-type-options"] == "nosniff"
    assert json.loads(body)["error"]["message"] == "no such path '/v1/nowhere'"


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../config.py",
        "/page/%2e%2e/config.py",
        "/page/..%2f..%2fconfig.py",
        "/questions/../../cli/run.py",
        "/page/%00",
        "//etc/passwd",
        "/page//etc/passwd",
        "/questions/%2fetc%2fpasswd",
    ],
)
def test_static_files_do_not_leave_their_folder(server: Running, path: str) -> None:
    status, _, body = server.get(path)
    assert status in (400, 404)
    assert b"root:" not in body
    assert b"import" not in body
