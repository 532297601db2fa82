"""The other side of a phone agent: somebody who dials through Twilio, and Twilio itself.

Speaks the webhook and the Media Streams protocol over real sockets, as described in
https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

RATE_HZ = 8_000
PACKET_SAMPLES = 160
PUBLIC_URL = "https://agent.example.com"


def _mu_law_table() -> NDArray[np.int16]:
    """What each byte stands for, by ITU-T G.711."""
    inverted = ~np.arange(256) & 0xFF
    magnitude = (((inverted & 0x0F) << 3) + 132 << ((inverted & 0x70) >> 4)) - 132
    return np.where(inverted & 0x80, -magnitude, magnitude).astype(np.int16)


MU_LAW = _mu_law_table()
_ORDER = np.argsort(MU_LAW, kind="stable")


def to_mu_law(pcm: NDArray[np.int16]) -> bytes:
    """The nearest values, one byte a sample."""
    values = MU_LAW[_ORDER].astype(np.int32)
    above = np.clip(np.searchsorted(values, pcm), 1, 255)
    nearer = above - (pcm - values[above - 1] < values[above] - pcm)
    return _ORDER[nearer].astype(np.uint8).tobytes()


async def dial(port: int, call_sid: str, sign: Any, path: str = "/voice") -> tuple[int, str]:
    """The provider's webhook request: its status and the instructions that come back."""
    form = [("CallSid", call_sid), ("From", "+15550100"), ("To", "+15550199"), ("CallerName", "")]
    headers = {
        "X-Twilio-Signature": sign(PUBLIC_URL + path, form),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    async with aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{port}{path}"
        async with client.post(url, data=urlencode(form), headers=headers) as response:
            return response.status, await response.text()


def token_in(instructions: str) -> str:
    """The parameter that the instructions give to the stream, which goes to the agent's own address."""
    assert '<Stream url="wss://agent.example.com/media">' in instructions
    found = re.search(r'<Parameter name="token" value="([^"]+)"/>', instructions)
    assert found is not None
    return found[1]


def start_message(call_sid: str, token: str) -> dict[str, Any]:
    """The second message of a stream."""
    start = {
        "accountSid": "AC0",
        "streamSid": "MZ0",
        "callSid": call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"token": token},
    }
    return {"event": "start", "sequenceNumber": "1", "streamSid": "MZ0", "start": start}


CONNECTED = {"event": "connected", "protocol": "Call", "version": "1.0.0"}


class PhoneCall:
    """A call that goes on: packets of 20 ms out, silent unless `say` has something, and all that comes in."""

    def __init__(self, port: int, call_sid: str, token: str) -> None:
        self._url = f"ws://127.0.0.1:{port}/media"
        self._start = start_message(call_sid, token)
        self._to_say = b""
        self.heard: list[tuple[float, NDArray[np.int16]]] = []  # when it came, [N] at 8 kHz
        self.events: list[str] = []

    async def __aenter__(self) -> Self:
        self.socket: ClientConnection = await connect(self._url)
        await self.send(CONNECTED)
        await self.send(self._start)
        self._tasks = [asyncio.create_task(self._talk()), asyncio.create_task(self._listen())]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        with suppress(ConnectionClosed):
            await self.send({"event": "stop", "streamSid": "MZ0", "stop": {"callSid": "CA0"}})
        await self.socket.close()
        await asyncio.gather(*self._tasks)

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(message))

    def say(self, pcm: NDArray[np.int16]) -> None:
        """Speaks from now on, without waiting for the end."""
        self._to_say += to_mu_law(pcm)

    async def press(self, digit: str) -> None:
        await self.send({"event": "dtmf", "streamSid": "MZ0", "dtmf": {"digit": digit}})

    async def _talk(self) -> None:
        began, number = time.monotonic(), 0
        with suppress(ConnectionClosed):
            while True:
                number += 1
                await asyncio.sleep(max(0.0, began + 0.02 * number - time.monotonic()))
                packet, self._to_say = self._to_say[:PACKET_SAMPLES], self._to_say[PACKET_SAMPLES:]
                payload = base64.b64encode(packet.ljust(PACKET_SAMPLES, b"\xff")).decode()
                await self.send({"event": "media", "streamSid": "MZ0", "media": {"payload": payload}})

    async def _listen(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self.socket:
                message = json.loads(text)
                self.events.append(message["event"])
                if message["event"] == "media":
                    codes = np.frombuffer(base64.b64decode(message["media"]["payload"]), np.uint8)
                    self.heard.append((time.monotonic(), MU_LAW[codes]))

    def loud_s(self, since: float = 0.0) -> float:
        """Seconds of speech that have come since then, on the monotonic clock."""
        loud = [np.abs(pcm.astype(int)) > 500 for at, pcm in self.heard if at >= since]
        return sum(float(part.any()) * len(part) for part in loud) / RATE_HZ

    def is_quiet(self, for_s: float) -> bool:
        """Whether nothing has been said for so long."""
        return self.loud_s(since=time.monotonic() - for_s) == 0
