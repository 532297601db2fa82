"""`moshi-agent serve` and `moshi-agent talk`, as processes."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner, Result

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from websockets.sync.client import connect

from moshi_agent.cli import main
from moshi_agent.cli.serve import _webrtc
from moshi_agent.cli.serve_limits import LIMITS, WEBRTC_LIMITS
from moshi_agent.questions import find_question, sample_questions
from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.server import Server, ServerConfig, command
from moshi_agent_adapters.server.web_calls import WebCalls
from moshi_agent_adapters.webrtc import ConnectionConfig
from tests.adapters.server.server_calls import Running, wait_for
from tests.adapters.server.server_clients import ask_kyutai, question, rest
from tests.adapters.server.server_process import serving
from tests.adapters.webrtc.webrtc_asking import refused_offer

QUESTION = str(find_question("What is your name?", sample_questions()).path)
ANSWER = "My name is Moshi, and I am a tiny talking model."
LOOK_UP = Path(__file__).parents[3] / "examples" / "look_up.py"


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "token"),
        (["--token", "short"], "8 characters"),
        (["--gradio-tunnel", "--port", "9000"], "cloudflared tunnel --url http://localhost:9000`"),
        (["--gradio-tunnel-token", "secret"], "ngrok http 8998`"),
        (["--ssl-cert", __file__], "go together"),
        (["--ssl-cert", __file__, "--ssl-key", __file__], "cannot be used"),
        (["--host", "nowhere.invalid", "--insecure-no-auth"], "cannot listen"),
        (["--allow-origin", "example.org"], "origin"),
        (["--look-up", "shop"], "FILE.py:NAME"),
        (["--look-up", "missing.py:look_up"], "there is no file missing.py"),
        (["--look-up", "os.path:join"], "no async function"),
        (["--transcribe", "missing.py:Hearing"], "there is no file missing.py"),
        (["--look-up", f"{LOOK_UP}:look_up"], "--transcribe"),
        (["--ice-server", "example.org:3478"], "stun:HOST"),
        (["--ice-server", "turn:example.org"], "credential"),
        (["--ice-server", "turn:example.org,moshi"], "credential"),
    ],
)
def test_settings_that_cannot_be_are_one_line(arguments: list[str], said: str) -> None:
    result = _invoke("serve", *arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert result.output.count("\n") == 1


def test_limits_are_options_whose_defaults_are_those_of_the_server() -> None:
    for config, limits in ((ServerConfig, LIMITS), (ConnectionConfig, WEBRTC_LIMITS)):
        fields = {field.name: field.default for field in dataclasses.fields(config)}
        assert all(limit.default == fields[limit.field] for limit in limits)
    told = " ".join(_invoke("serve", "--help").output.split())
    for limit in (*LIMITS, *WEBRTC_LIMITS):
        assert limit.option in told
        assert _invoke("serve", limit.option, "-1").exit_code == 2


def test_every_limit_of_a_connection_is_an_option_and_stands_in_the_documents() -> None:
    numbers = {f.name for f in dataclasses.fields(ServerConfig) if f.type in ("int", "float", "int | None")}
    assert numbers - {"port"} == {limit.field for limit in LIMITS}
    of_webrtc = {f.name for f in dataclasses.fields(ConnectionConfig) if f.type in ("int", "float")}
    no_limits = {"bit_rate", "expected_loss_percent", "stats_interval_s", "longest_call_s"}
    assert of_webrtc - no_limits == {limit.field for limit in WEBRTC_LIMITS}
    document = (Path(__file__).parents[3] / "docs" / "server.md").read_text(encoding="utf-8")
    table = document.partition("### Limits")[2].partition("### Stopping")[0]
    assert [limit.option for limit in (*LIMITS, *WEBRTC_LIMITS) if f"`{limit.option}`" not in table] == []


def test_options_of_webrtc_come_to_its_calls(server: Running) -> None:
    options = {f"webrtc_{limit.field}": 3.0 for limit in WEBRTC_LIMITS} | {"webrtc_private_candidates": False}
    webrtc = _webrtc(command, options)
    assert not options
    calls = WebCalls(Server(server.server.engine, ServerConfig(webrtc=webrtc, longest_call_s=7.0)))
    assert {getattr(calls.config, limit.field) for limit in WEBRTC_LIMITS} == {3.0}
    assert (calls.config.private_candidates, calls.config.longest_call_s) == (False, 7.0)


def test_a_port_that_is_taken_is_one_line(server: Running) -> None:
    result = _invoke("serve", "--host", "127.0.0.1", "--port", str(server.port))
    assert result.exit_code == 1
    assert f"cannot listen on port {server.port}" in result.output


def test_a_token_file_has_to_hold_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# none yet\n\n")
    assert "holds no token" in _invoke("serve", "--token-file", str(file)).output


@pytest.mark.real_time
@pytest.mark.slow
def test_the_first_sigterm_lets_calls_go_on_and_then_ends_them_with_a_reason() -> None:
    with serving("--drain-seconds", "3", "--capacity", "2") as server:
        with connect(f"{server.websocket}/api/chat") as call:
            assert call.recv() == Kind.HANDSHAKE.message()
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with connect(f"{server.websocket}/api/chat") as late:
                (refusal,) = rest(late)
                assert b"shutting down" in refusal  # pyright: ignore
            last = rest(call)
            assert last[-1] == b"\x05the server is shutting down"
            assert call.close_code == 1012
            assert 2.5 < time.monotonic() - began < 15
        assert server.process.wait(20) == 0


def test_without_calls_sigterm_ends_it_at_once() -> None:
    with serving("--no-process", "--capacity", "1") as server:
        with connect(f"{server.websocket}/api/chat") as call:
            assert call.recv() == Kind.HANDSHAKE.message()
        wait_for(lambda: _ready(server.port))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


@pytest.mark.slow
def test_an_engine_that_hangs_neither_holds_up_the_server_nor_its_end() -> None:
    """Stopped for good: what asks it is told so, and a signal ends both."""
    with serving("--capacity", "1", "--hang-seconds", "600") as server:
        wait_for(lambda: _ready(server.port))
        (child,) = _children(server.process.pid)
        os.kill(child, signal.SIGSTOP)
        status, _ = asyncio.run(refused_offer(f"http://localhost:{server.port}"))
        assert status == 503
        for path, status in (("/health", 503), ("/ready", 503), ("/v1/models", 200)):
            connection = http.client.HTTPConnection("localhost", server.port, timeout=10)
            assert _status(connection, {}, path) == status
            connection.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(40) == 0
        assert not Path(f"/proc/{child}").exists()


def _children(pid: int) -> list[int]:
    """The engine's process: of those that a process has begun, what is no tracker of resources."""
    found = {
        child
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    }
    return [int(one) for one in found if b"resource_tracker" not in Path(f"/proc/{one}/cmdline").read_bytes()]


def _ready(port: int) -> bool:
    """Whether the server says that its row is free."""
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    status = _status(connection, {}, "/ready")
    connection.close()
    return status == 200


def test_a_certificate_is_made_and_a_token_asked_for() -> None:
    options = ("--ssl-self-signed", "--token", "correct-horse", "--no-process", "--capacity", "1")
    with serving(*options) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        answers: list[int] = []
        for headers in ({}, {"Authorization": "Bearer correct-horse"}):
            connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=20)
            wait_for(lambda: _answers(connection, headers))  # noqa: B023
            answers.append(_status(connection, headers))
            connection.close()
        assert answers == [401, 200]


def _answers(connection: http.client.HTTPSConnection, headers: dict[str, str]) -> bool:
    try:
        return _status(connection, headers) > 0
    except OSError:
        connection.close()
        return False


def _status(connection: http.client.HTTPConnection, headers: dict[str, str], path: str = "/health") -> int:
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.mark.real_time
@pytest.mark.slow
def test_talk_asks_with_a_file_and_shows_what_it_hears(server: Running, tmp_path: Path) -> None:
    out = tmp_path / "answer.wav"
    command = [sys.executable, "-m", "moshi_agent", "talk", "--url", server.http, "--in", QUESTION]
    result = subprocess.run(
        [*command, "--out", str(out), "--tail", "8"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ANSWER
    samples, rate_hz = sf.read(out, dtype="float32")
    assert rate_hz == 48_000
    assert np.square(samples).sum() > 10
    wait_for(lambda: not server.live)


def test_talk_says_who_refuses_it(server: Running, tmp_path: Path) -> None:
    result = _invoke("talk", "--url", server.http + "/nowhere", "--in", QUESTION)
    assert result.exit_code == 1
    assert "does not take the call" in result.output
    missing = _invoke("talk", "--url", server.http, "--in", str(tmp_path / "none.wav"))
    assert missing.exit_code == 1
    assert "there is no file" in missing.output


@pytest.mark.slow
def test_talk_trusts_a_certificate_that_is_named_and_says_what_has_no_effect() -> None:
    with serving("--ssl-self-signed", "--no-process", "--capacity", "1") as server:
        assert server.process.stdout is not None
        certificate = server.process.stdout.readline().rpartition(" ")[2].strip()
        talk = ("talk", "--url", f"https://localhost:{server.port}", "--in", QUESTION, "--tail", "0")
        stranger = _invoke(*talk)
        assert stranger.exit_code == 1 and stranger.output.count("\n") == 1
        assert "is not trusted" in stranger.output and "--trust-cert" in stranger.output
        trusting = _invoke(*talk, "--trust-cert", certificate, "--role", "A cat.")
        assert trusting.exit_code == 0, trusting.output
        connected, note, *_ = trusting.stderr.splitlines()
        assert connected == f"connected to https://localhost:{server.port}"
        assert note == "tiny was not trained to take a role or a voice: they have no effect"
        wrong = _invoke(*talk, "--trust-cert", QUESTION)
        assert wrong.exit_code == 1 and "holds no certificate" in wrong.output


def test_an_address_that_is_told_can_be_opened() -> None:
    options = ("--host", "0.0.0.0", "--insecure-no-auth", "--log-level", "error")
    with serving(*options, "--no-process", "--capacity", "1") as server:
        assert server.url == f"http://localhost:{server.port}"
        connection = http.client.HTTPConnection("localhost", server.port, timeout=20)
        connection.request("GET", "/health")
        status = connection.getresponse().status
        connection.close()
        assert status == 200


@pytest.mark.parametrize("url", ["ftp://localhost", "http://", "http://localhost:1"])
def test_talk_gives_up_on_a_server_that_is_not_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moshi_agent_adapters.talk.command._WAITS_S", (0.01, 0.01))
    result = _invoke("talk", "--url", url, "--in", QUESTION, "--tail", "0")
    assert result.exit_code == 1
    assert "error:" in result.output


@pytest.mark.real_time
def test_talk_takes_up_a_lost_connection_again(server: Running) -> None:
    """A relay breaks the first connection off; the second one reaches the server."""

    async def relayed() -> str:
        from moshi_agent_adapters.talk.command import Talk, _talk  # pyright: ignore[reportPrivateUsage]
        from moshi_agent_adapters.talk.echo import Headphones

        lost = 0

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal lost
            if not lost:
                lost += 1
                await reader.readuntil(b"\r\n\r\n")
                writer.close()
                return
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer))

        relay_server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = relay_server.sockets[0].getsockname()[1]
        await _talk(Talk(url=f"http://127.0.0.1:{port}", source=Path(QUESTION), tail_s=1.0), Headphones())
        relay_server.close()
        return f"lost {lost}"

    assert asyncio.run(relayed()) == "lost 1"
    wait_for(lambda: not server.live)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_without_a_canceller_talk_wants_headphones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    result = CliRunner().invoke(main, ["talk"], input="n\n")
    assert result.exit_code != 0
    assert "headphones" in result.output


def test_ice_servers_are_told_to_the_page() -> None:
    options = ("--ice-server", "stun:127.0.0.1:9", "--ice-server", "turn:127.0.0.1:9?transport=tcp,moshi,a,b")
    with serving(*options, "--no-process", "--capacity", "1") as server:
        connection = http.client.HTTPConnection("localhost", server.port, timeout=20)
        connection.request("GET", "/api/webrtc")
        told = json.loads(connection.getresponse().read())["ice_servers"]
        connection.close()
    turn = {"urls": ["turn:127.0.0.1:9?transport=tcp"], "username": "moshi", "credential": "a,b"}
    assert told == [{"urls": ["stun:127.0.0.1:9"]}, turn]


@pytest.mark.real_time
def test_a_page_may_come_from_a_known_origin_only() -> None:
    options = ("--allow-origin", "https://example.org", "--no-process", "--capacity", "1")
    with serving(*options) as server:
        heard = asyncio.run(ask_kyutai(server.websocket, question("What is your name?"), "Moshi"))
        assert "My name" in heard.text
        for origin, status in (("https://example.org", 200), ("https://evil.example", 403)):
            connection = http.client.HTTPConnection("localhost", server.port, timeout=20)
            connection.request("GET", "/v1/models", headers={"Origin": origin})
            response = connection.getresponse()
            assert response.status == status
            assert json.loads(response.read())
            connection.close()


@pytest.mark.slow
def test_calls_are_recorded_where_that_is_asked_for(tmp_path: Path) -> None:
    """With the engine in a process of its own; complete once the server has stopped."""
    with serving("--record", str(tmp_path / "calls")) as server:
        asyncio.run(ask_kyutai(server.websocket, question("What is your name?"), ANSWER))
    [line] = (tmp_path / "calls" / "calls.jsonl").read_text().splitlines()
    sound, rate_hz = sf.read(tmp_path / "calls" / json.loads(line)["path"])
    bot, user = abs(sound).max(0)
    assert rate_hz == 24_000 and bot > 0.05 and user > 0.05
