"""Twelve clients at once, of all three protocols and each in a process of its own, on one server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import IO
from urllib.request import urlopen

import pytest

pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from websockets.sync.client import connect

from moshi_agent_adapters.protocols.kyutai import Kind
from tests.adapters.server.server_clients import rest
from tests.adapters.server.server_process import ServeProcess, serving
from tests.adapters.webrtc.webrtc_asking import refused_offer

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[3]
# Each protocol gets every question, as far as it has clients enough.
PROTOCOLS = (
    *("webrtc", "kyutai", "live", "kyutai", "webrtc", "telephone"),
    *("kyutai", "live", "webrtc", "telephone", "kyutai", "kyutai"),
)
ROWS = len(PROTOCOLS)
EXCHANGES = (
    ("What is your name?", "My name is Moshi, and I am a tiny talking model."),
    ("Count to five.", "One, two, three, four, five."),
    ("Tell me a joke.", "Why did the frame cross the road? To reach the other buffer."),
)


def _client(protocol: str, url: str, question: str, expected: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "tests.adapters.server.clients.asking",
        protocol,
        url,
        question,
        expected,
    ]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def _refuses_one_more(server: ServeProcess) -> None:
    """Each protocol says in its own form that no row is free."""
    with connect(f"{server.websocket}/api/chat") as one_more:
        (refusal,) = rest(one_more)
        assert refusal[0] == Kind.ERROR
        assert b"no row is free" in refusal  # pyright: ignore
    with connect(f"{server.websocket}/v1/live/sessions") as one_more:
        one_more.send(json.dumps({"type": "session.start", "session": {"model": "tiny"}}))
        (refusal,) = rest(one_more)
        assert json.loads(refusal)["error"]["code"] == "capacity_exceeded"
    status, refusal = asyncio.run(refused_offer(server.url))
    assert (status, refusal["error"]["code"]) == (503, "engine_full")


@pytest.mark.load
def test_everyone_is_answered_and_one_more_is_refused() -> None:
    with serving("--capacity", str(ROWS), "--overcommit") as server, ExitStack() as stack:
        urlopen(f"{server.url}/health", timeout=60).close()  # the engine has been started
        asked = [(name, *exchange) for name, exchange in zip(PROTOCOLS, cycle(EXCHANGES), strict=False)]
        clients = [
            stack.enter_context(_client(protocol, server.websocket, *exchange))
            for protocol, *exchange in asked
        ]
        assert [_line(client.stdout) for client in clients] == ["begun"] * ROWS

        _refuses_one_more(server)
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        answers = [_line(client.stdout) for client in clients]
        assert answers == [expected for _, _, expected in asked]
        assert [client.wait(20) for client in clients] == [0] * ROWS
        until = time.monotonic() + 5
        while (free := _ready(server.url))["live"]:
            assert time.monotonic() < until, free


def _ready(url: str) -> dict[str, int]:
    with urlopen(f"{url}/ready", timeout=10) as response:
        return json.loads(response.read())
