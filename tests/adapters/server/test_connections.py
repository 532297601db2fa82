"""Connections that nobody has shown a token on: counted, timed and bounded, over real sockets."""

from __future__ import annotations

import http.client
import logging
import os
import resource
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.server import ServerProtocol
from websockets.sync.client import connect

from moshi_agent_adapters.server import ServerConfig
from moshi_agent_adapters.server.certificate import self_signed
from moshi_agent_adapters.server.descriptors import connections_that_fit
from moshi_agent_adapters.server.http_protocol import uvicorn_options
from moshi_agent_adapters.server.tls import tls_context
from tests.adapters.server.bad_clients import frame, upgrade
from tests.adapters.server.server_calls import running_app, wait_for

HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LONGEST = 32 * 1024
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


async def _page(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())} bytes")


async def _large(_: Request) -> Response:
    return PlainTextResponse("x" * 30_000_000)


async def _echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


async def _bye(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


@contextmanager
def _serving(**config: float) -> Generator[int]:
    app = Starlette(
        routes=[
            Route("/", _page, methods=["GET", "POST"]),
            Route("/large", _large),
            WebSocketRoute("/echo", _echo),
            WebSocketRoute("/bye", _bye),
        ]
    )
    with running_app(app, ServerConfig(**config)) as port:  # pyright: ignore
        yield port


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that waits for one second."""
    with _serving(request_s=1.0, send_s=0.5, frames_per_second=20.0) as port:
        yield port


def _open(port: int, sent: bytes = b"") -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    raw.sendall(sent)
    return raw


def _all(raw: socket.socket) -> bytes:
    """What comes until the other side closes."""
    received = b""
    try:
        while part := raw.recv(65_536):
            received += part
    except ConnectionResetError:
        pass
    return received


def _status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /",
        HEAD,
        HEAD + UPGRADE,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
def test_a_request_that_does_not_come_to_its_end_is_given_up(port: int, begun: bytes) -> None:
    began = time.monotonic()
    with _open(port, begun) as raw:
        assert b" 408 " in _all(raw)
    assert 0.9 < time.monotonic() - began < 10


def test_a_header_now_and_then_does_not_keep_a_connection(port: int) -> None:
    with _open(port, HEAD) as raw:
        began = time.monotonic()
        raw.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() - began < 10:
            try:
                raw.sendall(b"X: y\r\n")
                answer = raw.recv(1000)
            except TimeoutError:
                continue
        assert b" 408 " in answer


def test_a_second_request_has_its_time_too(port: int) -> None:
    with _open(port, HEAD + b"\r\n") as raw:
        assert raw.recv(1000).startswith(b"HTTP/1.1 200")
        raw.sendall(HEAD)
        assert b" 408 " in _all(raw)


@pytest.mark.parametrize("line", [b"X: y\r\n", b"X" * 100])
def test_headers_without_end_are_refused_at_once(port: int, line: bytes) -> None:
    with _open(port, HEAD) as raw:
        sent = 0
        try:
            while sent < 10 * LONGEST:
                sent += raw.send(line * 100)
            answer = _all(raw)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
        assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert _status(port) == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /echo?a=" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n", b" 414 "),
        (HEAD + UPGRADE + b"X: " + b"y" * 9000 + b"\r\n\r\n", b" 431 "),
        (HEAD + UPGRADE + b"X: y\r\n" * 130 + b"\r\n", b" 431 "),
    ],
)
def test_an_upgrade_that_is_too_long_is_answered(port: int, head: bytes, status: bytes) -> None:
    with _open(port, head) as raw:
        assert status in _all(raw).partition(b"\r\n")[0]


@contextmanager
def _deaf(port: int) -> Generator[socket.socket]:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.connect(("127.0.0.1", port))
    with raw:
        yield raw


@pytest.fixture(scope="module")
def single() -> Iterator[int]:
    """Of a server that holds one connection, and waits for a second."""
    with _serving(request_s=1.0, send_s=0.5, most_connections=1) as port:
        yield port


def test_an_answer_that_nobody_reads_gives_its_place_back(single: int) -> None:
    with _deaf(single) as raw:
        raw.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: not _answers(single))
        wait_for(lambda: _answers(single), 15)


def test_one_address_has_so_many_connections(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, "moshi_agent.server"),
        _serving(connections_per_address=4) as port,
        ExitStack() as opened,
    ):
        # Websockets that were let in are calls, whose number has a limit of its own.
        for _ in range(6):
            opened.enter_context(connect(f"ws://127.0.0.1:{port}/echo"))
        silent = [opened.enter_context(_open(port)) for _ in range(4)]
        for _ in range(3):
            assert _all(opened.enter_context(_open(port))) == b""
        silent.pop().close()
        wait_for(lambda: _answers(port))
        (warning,) = [record.message for record in caplog.records if "connections" in record.message]
        assert "too many connections" in warning


def test_all_together_have_so_many_connections() -> None:
    with _serving(most_connections=3) as port, ExitStack() as opened:
        calls = [opened.enter_context(connect(f"ws://127.0.0.1:{port}/echo")) for _ in range(3)]
        assert _all(opened.enter_context(_open(port))) == b""
        calls[0].close()
        wait_for(lambda: _answers(port))


def _answers(port: int) -> bool:
    try:
        return _status(port) == 200
    except (OSError, http.client.HTTPException):
        return False


def _frame(kind: int, payload: bytes = b"") -> bytes:
    """As a client frames it: masked, here with zeros. `kind` is the whole first byte."""
    return bytes([kind, 0x80 | len(payload)]) + bytes(4) + payload


def _flood(frame: bytes) -> Callable[[socket.socket], bytes]:
    def send(raw: socket.socket) -> bytes:
        sent = 0
        try:
            while sent < 3_000_000:
                sent += raw.send(frame * 1000)
        except (ConnectionResetError, BrokenPipeError):
            return b""
        return _all(raw)

    return send


@pytest.mark.parametrize(
    "flood",
    [_flood(_frame(0x89)), _flood(_frame(0x8A)), _flood(_frame(0x00))],
    ids=["pings", "pongs", "empty parts of a message"],
)
def test_frames_that_carry_nothing_end_the_connection(
    port: int, flood: Callable[[socket.socket], bytes]
) -> None:
    with _open(port) as raw:
        upgrade(raw, "/echo")
        raw.sendall(_frame(0x01, b"begun"))
        received = flood(raw)
        assert not received or b"parts of messages a second" in received
    assert _status(port) == 200


def test_who_is_thrown_out_has_left_for_the_application(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Which is about to say something, and hears of it as of any client that goes."""
    with caplog.at_level(logging.ERROR), _open(port) as raw:
        upgrade(raw, "/echo")
        raw.sendall(frame(b"hello") + frame(b"", opcode=9) * 400)
        _all(raw)
    assert not caplog.records


def test_frames_within_bounds_are_answered(port: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/echo") as websocket:
        for _ in range(50):
            assert websocket.ping().wait(5)
        websocket.send(["in ", "four ", "par", "ts"])
        assert websocket.recv() == "in four parts"


def test_messages_that_come_together_all_arrive_in_order(port: int) -> None:
    with _open(port) as raw:
        upgrade(raw, "/echo")
        raw.sendall(b"".join(_frame(0x81, b"%05d" % n) for n in range(5000)))
        received = b""
        while len(received) < 7 * 5000:
            received += raw.recv(65_536)
    assert [int(part) for part in received.split(b"\x81\x05")[1:]] == list(range(5000))


def test_a_websocket_that_reads_nothing_gives_its_place_back(single: int) -> None:
    with _deaf(single) as raw:
        upgrade(raw, "/echo")
        message = b"\x81\xfe" + struct.pack(">H", 60_000) + bytes(4) + b"x" * 60_000
        raw.settimeout(0.5)
        with suppress(OSError):
            for _ in range(200):
                raw.sendall(message)
        wait_for(lambda: _answers(single), 15)


def test_a_close_that_nobody_answers_gives_its_place_back(single: int) -> None:
    with _open(single) as raw:
        upgrade(raw, "/bye")
        wait_for(lambda: _answers(single), 15)


def test_what_floods_in_after_the_end_is_read_at_a_walk(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as fast as it comes, it would take the loop from everybody else."""
    flood, parsed, parse = frame(b"unknown") * 50_000, list[int](), ServerProtocol.receive_data

    def noted(protocol: ServerProtocol, data: bytes) -> None:
        parsed.append(len(data))
        parse(protocol, data)

    with _open(port) as raw:
        upgrade(raw, "/bye")
        wait_for(lambda: bool(select.select([raw], [], [], 0)[0]), 5)  # it has said goodbye
        monkeypatch.setattr(ServerProtocol, "receive_data", noted)
        until = time.monotonic() + 2
        raw.settimeout(0.1)
        while time.monotonic() < until:
            with suppress(OSError):
                raw.send(flood)
        assert 0 < sum(parsed) < 400_000


def test_descriptors_that_are_too_few_make_less_connections(caplog: pytest.LogCaptureFixture) -> None:
    assert connections_that_fit(1000, 8, None) == 1000
    assert connections_that_fit(1000, 8, 100_000) == 1000
    assert not caplog.records
    assert connections_that_fit(1000, 8, 1024) == 832
    assert "ulimit" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_the_soft_limit_of_descriptors_is_raised() -> None:
    code = (
        "import resource as r; h = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (64, h))\n"
        "from moshi_agent_adapters.server.descriptors import raise_descriptor_limit as up\n"
        "up(); print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    soft, hard = map(int, done.stdout.split())
    assert soft == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@contextmanager
def _serving_tls(loop: str = "auto", **config: float) -> Generator[int]:
    app = Starlette(routes=[Route("/", _page, methods=["GET", "POST"]), WebSocketRoute("/echo", _echo)])
    server = ServerConfig(**config)  # pyright: ignore
    with self_signed("localhost") as files:
        options = uvicorn_options(server, tls=tls_context(*files)) | {"loop": loop}
        with running_app(app, server, **options) as port:
            yield port


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _secure_status(port: int) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=_trusting())
    connection.request("POST", "/", b"x" * 100_000)
    response = connection.getresponse()
    assert response.read() == b"100000 bytes"
    connection.close()
    return response.status


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_requests_and_websockets_come_over_tls(loop: str) -> None:
    with _serving_tls(loop) as port:
        for _ in range(5):
            assert _secure_status(port) == 200
        with connect(f"wss://127.0.0.1:{port}/echo", ssl=_trusting()) as websocket:
            for text in ("a", "b" * 100_000):
                websocket.send(text)
                assert websocket.recv() == text


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00", HEAD, os.urandom(300)])
def test_a_tls_handshake_that_does_not_come_to_its_end_is_given_up(sent: bytes) -> None:
    with _serving_tls(request_s=1.0) as port:
        began = time.monotonic()
        with _open(port, sent) as raw:
            _all(raw)
        assert time.monotonic() - began < 5
        assert _secure_status(port) == 200


def test_silent_tls_handshakes_are_counted_and_their_places_given_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING), _serving_tls(connections_per_address=5, request_s=2.0) as port:
        with ExitStack() as stack:
            silent = [stack.enter_context(_open(port)) for _ in range(5)]
            time.sleep(0.3)
            with pytest.raises(OSError):
                _secure_status(port)
            assert "too many connections" in caplog.text
            for raw in silent:
                assert _all(raw) == b""  # given up
        wait_for(lambda: _secure_status(port) == 200)


def test_a_server_that_ends_waits_for_no_handshake() -> None:
    began = time.monotonic()
    with ExitStack() as stack, _serving_tls() as port:
        stack.enter_context(_open(port))
        time.sleep(0.2)
    assert time.monotonic() - began < 10
