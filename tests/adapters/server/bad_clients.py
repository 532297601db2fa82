"""What clients need that do what they should not: calls that have begun, and messages by the byte."""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from websockets.sync.client import ClientConnection, connect

from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.protocols.opus import OpusWriter

START = json.dumps({"type": "session.start", "session": {"model": "tiny"}})


class Address(Protocol):
    """Where a server is."""

    @property
    def websocket(self) -> str: ...

    @property
    def port(self) -> int: ...


@contextmanager
def chat(server: Address) -> Iterator[ClientConnection]:
    """A call that has begun."""
    with connect(f"{server.websocket}/api/chat") as connection:
        assert connection.recv() == Kind.HANDSHAKE.message()
        yield connection


@contextmanager
def live(server: Address) -> Iterator[ClientConnection]:
    """A session that has started."""
    with connect(f"{server.websocket}/v1/live/sessions") as connection:
        connection.send(START)
        assert json.loads(connection.recv())["type"] == "session.started"
        yield connection


def append(data: bytes) -> str:
    """The message that sends audio over GPT-Live."""
    return json.dumps({"type": "session.input_audio.append", "audio": base64.b64encode(data).decode()})


def opus(seconds: float) -> bytes:
    """A stream of silence, from its headers on."""
    writer = OpusWriter()
    return writer.header() + writer.push(np.zeros(round(24_000 * seconds), np.float32))


def deaf_socket(server: Address) -> socket.socket:
    """A connection whose receive buffer is small."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.connect(("127.0.0.1", server.port))
    return raw


def upgrade(raw: socket.socket, path: str) -> None:
    """Makes the connection a websocket, by hand: nothing answers pings."""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    raw.sendall(request.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        received = raw.recv(1)
        assert received, answer
        answer += received
    assert b" 101 " in answer


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A message, by default of text, as a client frames it: masked, here with zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + struct.pack(">H", size) if size < 65_536 else b"\xff" + struct.pack(">Q", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload
