"""Clients that mean ill, by what they are after. Each goes on until a time, and returns what it did."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.protocols.ogg import OggWriter
from tests.adapters.server.bad_clients import START, append, deaf_socket, frame, opus, upgrade

_TEXT, _BINARY, _PING, _PONG = 1, 2, 9, 10  # opcodes of websockets
_BUNCH = 65_536  # bytes that are sent at once
_PAUSE_S = 0.2  # after having been thrown out


@dataclass(frozen=True)
class Place:
    """A server on this machine, and the token that it asks for."""

    port: int
    token: str
    has_tls: bool = False

    @property
    def live(self) -> str:
        scheme = "wss" if self.has_tls else "ws"
        return f"{scheme}://127.0.0.1:{self.port}{self.path('/v1/live/sessions')}"

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def path(self, path: str) -> str:
        return f"{path}?token={self.token}"

    def http(self) -> http.client.HTTPConnection:
        """A connection for requests; who has signed the certificate is not asked."""
        if not self.has_tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        context = unverified()
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=context)


def unverified() -> ssl.SSLContext:
    """TLS with whoever answers: the server's certificate is its own."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


Work = Callable[[Place, float], int]  # on a server, until a time: how often it did what it does


@dataclass(frozen=True)
class Attack:
    """One way to do harm, by one process."""

    after: str  # what it tries to have all to itself
    work: Work
    over_tls: bool = False  # on a server with a certificate


# Before anybody has shown a token


def silent_connections(place: Place, until: float) -> int:
    """As many sockets as there may be, which say nothing."""
    with ExitStack() as stack:
        for _ in range(500):
            with suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", place.port), timeout=5))
        time.sleep(max(0.0, until - time.monotonic()))
    return 500


def silent_handshakes(place: Place, until: float) -> int:
    """As many as there may be who say that they want TLS, and no more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        unverified().wrap_bio(incoming, outgoing).do_handshake()
    hello, count = outgoing.read(), 0
    with ExitStack() as stack:
        for _ in range(500):
            with suppress(OSError):
                raw = stack.enter_context(socket.create_connection(("127.0.0.1", place.port), timeout=5))
                raw.sendall(hello if count % 2 else hello[:40])
                count += 1
        time.sleep(max(0.0, until - time.monotonic()))
    return count


def handshakes_that_come_and_go(place: Place, until: float) -> int:
    def once() -> None:
        with socket.create_connection(("127.0.0.1", place.port), timeout=5) as raw:
            unverified().wrap_socket(raw).close()

    return _again(once, until)


def endless_header(place: Place, until: float) -> int:
    return _stream(place, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ", b"a" * _BUNCH, until)


def many_headers(place: Place, until: float) -> int:
    return _stream(place, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"a: b\r\n" * 10_000, until)


def connections_that_come_and_go(place: Place, until: float) -> int:
    def once() -> None:
        socket.create_connection(("127.0.0.1", place.port), timeout=5).close()

    return _again(once, until)


def wrong_tokens(place: Place, until: float) -> int:
    return _get("/health", {"Authorization": "Bearer guess-after-guess"})(place, until)


def _stream(place: Place, head: bytes, part: bytes, until: float) -> int:
    """Sends a request that has no end, again and again."""

    def once() -> None:
        with socket.create_connection(("127.0.0.1", place.port), timeout=5) as raw:
            raw.sendall(head)
            while time.monotonic() < until:
                raw.sendall(part)

    return _again(once, until)


def _get(path: str, headers: dict[str, str] | None = None) -> Work:
    """Asks for a path as fast as it is answered, on eight connections."""

    def one(place: Place, until: float, counts: list[int]) -> None:
        def once() -> None:
            connection = place.http()
            try:
                while time.monotonic() < until:
                    connection.request("GET", path, headers=headers or place.bearer)
                    connection.getresponse().read()
                    counts.append(1)
            finally:
                connection.close()

        _again(once, until)

    def work(place: Place, until: float) -> int:
        counts: list[int] = []
        threads = [threading.Thread(target=one, args=(place, until, counts)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(counts)

    return work


# In a call: work that carries no audio


def _flood(path: str, message: bytes, *first: bytes) -> Work:
    """Sends one message as fast as it is taken, in a call, and in another one when that has been ended."""
    bunch = message * max(1, _BUNCH // len(message))

    def work(place: Place, until: float) -> int:
        sent = 0

        def once() -> None:
            nonlocal sent
            with _call(place, path) as raw:
                for part in first:
                    raw.sendall(part)
                while time.monotonic() < until:
                    raw.sendall(bunch)
                    sent += len(bunch) // len(message)

        _again(once, until)
        return sent

    return work


@contextmanager
def _call(place: Place, path: str) -> Iterator[socket.socket]:
    """A websocket by hand, whose answers are read and forgotten."""
    with socket.create_connection(("127.0.0.1", place.port), timeout=10) as raw:
        upgrade(raw, place.path(path))
        threading.Thread(target=_drain, args=(raw,), daemon=True).start()
        yield raw


def _drain(raw: socket.socket) -> None:
    with suppress(OSError):
        while raw.recv(_BUNCH):
            pass


def _event(kind: str, **fields: Any) -> bytes:
    return frame(json.dumps({"type": kind, **fields}).encode())


def _chat_flood(payload: bytes, opcode: int = _BINARY) -> Work:
    return _flood("/api/chat", frame(payload, opcode))


def _live_flood(message: bytes) -> Work:
    return _flood("/v1/live/sessions", message, frame(START.encode()))


def _opus_heads() -> bytes:
    """A page of 255 heads of streams: a decoder each, and no audio."""
    head = struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, 0, 48_000, 0, 0)
    return Kind.AUDIO.message(OggWriter(serial=7).page([head] * 255, granule=0))


def audio_ahead_of_time(place: Place, until: float) -> int:
    """A minute of sound a second."""

    def once() -> None:
        with _call(place, "/api/chat") as raw:
            while time.monotonic() < until:
                raw.sendall(frame(Kind.AUDIO.message(opus(6.0)), _BINARY))
                time.sleep(0.1)

    return _again(once, until)


# What outlives its call


def pings_and_never_reads(place: Place, until: float) -> int:
    def once() -> None:
        with deaf_socket(place) as raw:
            upgrade(raw, place.path("/api/chat"))
            while time.monotonic() < until:
                raw.sendall(frame(b"p" * 125, _PING) * 500)

    return _again(once, until)


def rows_hoarded(place: Place, until: float) -> int:
    """As many calls as there are rows, and not a sound."""
    with ExitStack() as stack:
        for _ in range(8):
            with suppress(OSError, AssertionError):
                raw = stack.enter_context(_call(place, "/v1/live/sessions"))
                raw.sendall(frame(START.encode()))
        time.sleep(max(0.0, until - time.monotonic()))
    return 8


# Over WebRTC


def offers_that_never_connect(place: Place, until: float) -> int:
    from tests.adapters.webrtc.webrtc_peer import Caller

    async def offer() -> str:
        caller = Caller()
        sdp = await caller.offer()
        await caller.hang_up()
        return sdp

    body = json.dumps({"sdp": asyncio.run(offer())}).encode()
    headers = {"Content-Type": "application/json", **place.bearer}

    def once() -> None:
        connection = place.http()
        connection.request("POST", "/api/webrtc", body, headers)
        connection.getresponse().read()
        connection.close()

    return _again(once, until)


def _calls(hold: Callable[[Place, Any, str, float], Coroutine[Any, Any, int]]) -> Work:
    """Holds a call over WebRTC, and another one when that has been ended."""

    def work(place: Place, until: float) -> int:
        count = 0
        while time.monotonic() < until:
            with suppress(OSError, AssertionError, TimeoutError):
                count += asyncio.run(_call_over_webrtc(place, until, hold))
            time.sleep(_PAUSE_S)
        return count

    return work


async def _call_over_webrtc(
    place: Place, until: float, hold: Callable[[Place, Any, str, float], Coroutine[Any, Any, int]]
) -> int:
    from tests.adapters.webrtc.webrtc_asking import request
    from tests.adapters.webrtc.webrtc_peer import Caller

    caller = Caller()
    try:
        url, offer = f"http://127.0.0.1:{place.port}/api/webrtc", {"sdp": await caller.offer()}
        status, answer = await asyncio.to_thread(request, "POST", url, offer, place.bearer)
        assert status == 201, answer
        await caller.accept(answer["sdp"])
        await caller.wait_for(lambda: caller.has("stats"), 20)
        return await hold(place, caller, f"{url}/{answer['id']}", until)
    finally:
        await caller.hang_up()


def _data_channel(message: str) -> Work:
    """Sends one message as fast as a data channel takes it."""

    async def send(place: Place, caller: Any, url: str, until: float) -> int:
        count = 0
        while time.monotonic() < until and caller.channel.readyState == "open":
            if caller.channel.bufferedAmount < 200_000:
                caller.channel.send(message)
                count += 1
            await asyncio.sleep(0 if count % 4 else 0.001)
        return count

    return _calls(send)


async def _renew_offers(place: Place, caller: Any, url: str, until: float) -> int:
    """Renews its offer as fast as that is answered, each time with many addresses."""
    from tests.adapters.webrtc.webrtc_asking import request

    count, sdp = 0, caller.peer.localDescription.sdp
    candidates = "".join(
        f"a=candidate:{port} 1 udp 2130706431 127.0.0.1 {port} typ host\r\n" for port in range(2000, 2600)
    )
    while time.monotonic() < until:
        status, _ = await asyncio.to_thread(request, "PATCH", url, {"sdp": sdp + candidates}, place.bearer)
        assert status != 404, "the call is over"
        count += 1
    return count


def _again(once: Callable[[], object], until: float) -> int:
    """Does it again and again, whatever comes of it."""
    count = 0
    while time.monotonic() < until:
        with suppress(OSError, AssertionError, http.client.HTTPException):  # refused, or thrown out
            once()
            count += 1
            continue
        time.sleep(_PAUSE_S)
    return count


ATTACKS = {
    "silent connections": Attack("connections", silent_connections),
    "silent TLS handshakes": Attack("connections", silent_handshakes, over_tls=True),
    "TLS handshakes that come and go": Attack("the event loop", handshakes_that_come_and_go, over_tls=True),
    "connections that come and go": Attack("connections", connections_that_come_and_go),
    "one endless header": Attack("memory before a token", endless_header),
    "headers without end": Attack("memory before a token", many_headers),
    "wrong tokens": Attack("tokens", wrong_tokens),
    "GET /metrics": Attack("the engine's answers", _get("/metrics")),
    "GET /ready": Attack("the engine's answers", _get("/ready")),
    "GET of no such path": Attack("the event loop", _get("/nothing-here")),
    "Kyutai's pings": Attack("the event loop", _chat_flood(Kind.PING.message())),
    "Kyutai's controls": Attack("the event loop", _chat_flood(b"\x03")),
    "websocket pings": Attack("the event loop", _chat_flood(b"p" * 125, _PING)),
    "websocket pongs": Attack("the event loop", _chat_flood(b"p" * 125, _PONG)),
    "empty parts of a message": Attack(
        "the event loop", _flood("/api/chat", b"\x00\x80" + bytes(4), b"\x02\x80" + bytes(4))
    ),
    "heads of Opus streams": Attack("decoders", _chat_flood(_opus_heads())),
    "appends without audio": Attack("the event loop", _live_flood(frame(append(b"").encode()))),
    "appends of one sample": Attack("the event loop", _live_flood(frame(append(b"\0\0").encode()))),
    "unknown events": Attack("the event loop", _live_flood(_event("session.nothing"))),
    "deep JSON": Attack("the event loop", _live_flood(frame(b'{"type":' + b"[" * 900 + b"]" * 900 + b"}"))),
    "long updates": Attack(
        "the event loop", _live_flood(_event("session.update", session={"instructions": "d" * 200_000}))
    ),
    "long commentary": Attack(
        "the engine's thread", _live_flood(_event("session.commentary.append", content="two " * 25_000))
    ),
    "audio ahead of real time": Attack("the engine's rows", audio_ahead_of_time),
    "pings, and nothing is read": Attack("memory after a call", pings_and_never_reads),
    "rows hoarded": Attack("the engine's rows", rows_hoarded),
    "offers that never connect": Attack("the engine's rows", offers_that_never_connect),
    "sentences over a data channel": Attack(
        "the engine's thread", _data_channel(json.dumps({"type": "say", "text": "two " * 4000}))
    ),
    "renewed offers": Attack("the event loop", _calls(_renew_offers)),
    "junk over a data channel": Attack("the event loop", _data_channel("x" * 16_000)),
}
