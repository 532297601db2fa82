"""The websocket of one call: begun, renewed, told of addresses, ended; and every way to ask wrongly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("aiortc")
pytest.importorskip("uvicorn")

from starlette.applications import Starlette
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from moshi_agent import Engine
from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from moshi_agent_adapters.webrtc import Connections, OfferError, webrtc_routes
from tests.adapters.server.server_calls import running_app
from tests.adapters.webrtc.webrtc_asking import ask_signalling, signal
from tests.adapters.webrtc.webrtc_peer import Caller


@pytest.fixture(scope="module")
def calls() -> Iterator[Connections]:
    with Engine.load("tiny", capacity=1, admit_by_time=False, shared=False) as engine:
        yield Connections(engine)


@pytest.fixture(scope="module")
def url(calls: Connections) -> Iterator[str]:
    app = Starlette(routes=webrtc_routes(calls.engine, connections=calls))
    with running_app(app) as port:
        yield f"ws://127.0.0.1:{port}/api/webrtc/call"


@pytest.mark.real_time
@pytest.mark.slow
def test_a_call_over_one_websocket(url: str, calls: Connections) -> None:
    question = read_audio(find_question("What is your name?", sample_questions()).path, 48_000)
    heard = asyncio.run(ask_signalling(url.removesuffix("/api/webrtc/call"), question, "tiny talking model"))
    assert heard.text.startswith("My name is Moshi") and heard.energy > 1
    asyncio.run(wait_until_over(calls))


@pytest.mark.real_time
def test_a_call_is_renewed_also_when_its_websocket_was_lost(url: str, calls: Connections) -> None:
    async def talk() -> None:
        caller, late = Caller(), Caller()
        lost = await connect(url)
        answer = await signal(lost, type="offer", sdp=await caller.offer(), options={"seed": 1})
        await caller.accept(answer["sdp"])
        await caller.wait_for(lambda: caller.has("stats"))
        renewed = await signal(lost, type="offer", sdp=await caller.offer())
        assert renewed["id"] == answer["id"]
        await caller.accept(renewed["sdp"])
        lost.transport.abort()
        async with connect(url) as websocket:
            refusal = await signal(websocket, type="offer", sdp=await late.offer())
            assert refusal["code"] == "engine_full", "the call goes on without its websocket"
        async with connect(url) as websocket:
            renewed = await signal(websocket, type="offer", sdp=await caller.offer(), id=answer["id"])
            assert renewed["type"] == "answer" and len(calls) == 1
        await wait_until_over(calls)  # closed: that hangs up
        for one in (caller, late):
            await one.hang_up()

    asyncio.run(asyncio.wait_for(talk(), 120))


async def wait_until_over(calls: Connections) -> None:
    async with asyncio.timeout(10):
        while len(calls) or (await calls.engine.capacity_async()).live:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.real_time
def test_addresses_come_after_the_offer(url: str, calls: Connections) -> None:
    """The offer names an address where nobody is; the real ones come as candidates do in browsers."""

    async def talk() -> None:
        caller = Caller()
        lines = (await caller.offer()).splitlines()
        found = [line[2:] for line in lines if line.startswith("a=candidate:") and " typ host" in line]
        kept = [line for line in lines if not line.startswith(("a=candidate:", "a=end-of-candidates"))]
        nowhere = "a=candidate:1 1 udp 1 127.0.0.1 9 typ host"
        sections = "\r\n".join(line for line in kept) + "\r\n"
        sdp = sections.replace("a=rtcp-mux\r\n", f"a=rtcp-mux\r\n{nowhere}\r\n")
        async with connect(url) as websocket:
            answer = await signal(websocket, type="offer", sdp=sdp)
            await caller.accept(answer["sdp"])
            refusal = await signal(
                websocket, type="candidate", candidate="candidate:1 1 udp x 127.0.0.1 9 typ host"
            )
            assert refusal["type"] == "error" and refusal["code"] == "bad_offer"
            for line in found:
                await websocket.send(json.dumps({"type": "candidate", "candidate": line}))
            await caller.wait_for(lambda: caller.has("stats"), 30)
            ice = calls.call(answer["id"])._peer.sctp.transport.transport  # type: ignore[union-attr]
            known = {(one.ip, str(one.port)) for one in ice.getRemoteCandidates()}
            assert {tuple(line.split()[4:6]) for line in found} <= known
        await wait_until_over(calls)
        await caller.hang_up()

    asyncio.run(asyncio.wait_for(talk(), 120))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "offer"}, "bad_request"),
        ({"type": "offer", "sdp": "v=0"}, "bad_offer"),
        ({"type": "offer", "sdp": "v=0", "options": [1]}, "bad_request"),
        ({"type": "offer", "sdp": "v=0", "options": {"colour": "red"}}, "bad_request"),
        ({"type": "offer", "sdp": "v=0", "id": "of nobody"}, "no_such_call"),
        ({"type": "hang_up"}, "bad_request"),
        ([1], "bad_request"),
    ],
)
def test_what_begins_no_call_is_told_so_and_the_websocket_ends(url: str, message: Any, code: str) -> None:
    async def talk() -> None:
        async with connect(url) as websocket:
            await websocket.send(json.dumps(message))
            refusal = json.loads(await websocket.recv())
            assert refusal["type"] == "error" and refusal["code"] == code and refusal["message"]
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == 1008

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_a_page_elsewhere_gets_no_websocket(url: str) -> None:
    async def talk() -> None:
        with pytest.raises(InvalidStatus, match="403"):
            async with connect(url, origin="https://elsewhere.example"):  # type: ignore[arg-type]
                pass

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_there_is_no_candidate_before_an_offer(calls: Connections) -> None:
    async def talk() -> None:
        from moshi_agent_adapters.webrtc import MoshiConnection

        connection = MoshiConnection(calls.engine)
        with pytest.raises(OfferError, match="after it"):
            await connection.add_candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host")
        await connection.close()

    asyncio.run(talk())
