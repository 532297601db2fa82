"""A client of the server that asks it a question over WebRTC, from `/api/webrtc` on."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect

from tests.adapters.server.server_clients import PATIENCE_S, Gate, Heard
from tests.adapters.webrtc.webrtc_peer import Caller

JSON = {"Content-Type": "application/json"}


def request(
    method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """The status and the JSON of the answer. A body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, JSON | (headers or {}), method=method), timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


async def ask_webrtc(url: str, samples: NDArray[np.float32], expected: str, gate: Gate) -> Heard:
    """Asks with samples [N] at 48 kHz, once the gate is open, until the expected words have come."""
    caller = Caller()
    offer = {"sdp": await caller.offer()}
    status, answer = await asyncio.to_thread(request, "POST", f"{url}/api/webrtc", offer)
    assert status == 201, answer
    await caller.accept(answer["sdp"])
    await caller.wait_for(lambda: caller.has("stats"), PATIENCE_S)
    gate.on_begun()
    await gate.opened.wait()
    caller.microphone.play(samples)
    await caller.wait_for(lambda: expected in caller.text, PATIENCE_S)
    status, _ = await asyncio.to_thread(request, "DELETE", f"{url}/api/webrtc/{answer['id']}")
    assert status == 204
    await caller.hang_up()
    energy = sum(float(np.square(pcm).sum()) for pcm in caller.heard)
    return Heard(caller.text, energy, sum(map(len, caller.heard)), caller.events)


async def ask_signalling(
    url: str, samples: NDArray[np.float32], expected: str, query: str = "", gate: Gate | None = None
) -> Heard:
    """Asks as `ask_webrtc` does, over the websocket of a call.

    Raises:
        ConnectionRefusedError: the server takes no call.
    """
    caller = Caller()
    address = f"{url.replace('http', 'ws', 1)}/api/webrtc/call{query}"
    async with connect(address, compression=None, open_timeout=PATIENCE_S) as websocket:
        answer = await signal(websocket, type="offer", sdp=await caller.offer())
        if answer["type"] == "answer":
            await caller.accept(answer["sdp"])
            await caller.wait_for(lambda: caller.has("stats") or caller.has("error"), PATIENCE_S)
        if not caller.has("stats"):
            await caller.hang_up()
            raise ConnectionRefusedError(caller.events or answer)
        if gate is not None:
            gate.on_begun()
            await gate.opened.wait()
        caller.microphone.play(samples)
        await caller.wait_for(lambda: expected in caller.text, PATIENCE_S)
        assert (await signal(websocket, type="hang_up")) == {"type": "ended", "reason": "the caller hung up"}
    await caller.hang_up()
    energy = sum(float(np.square(pcm).sum()) for pcm in caller.heard)
    return Heard(caller.text, energy, sum(map(len, caller.heard)), caller.events)


async def signal(websocket: ClientConnection, **message: Any) -> Any:
    """Sends a message and returns the next one that comes."""
    await websocket.send(json.dumps(message))
    return json.loads(await asyncio.wait_for(websocket.recv(), PATIENCE_S))


async def refused_offer(url: str) -> tuple[int, Any]:
    """Status and error of an offer that the server does not take."""
    caller = Caller()
    body = {"sdp": await caller.offer()}
    refusal = await asyncio.to_thread(request, "POST", f"{url}/api/webrtc", body)
    await caller.hang_up()
    return refusal
