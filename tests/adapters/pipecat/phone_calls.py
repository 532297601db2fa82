"""Somebody on the telephone, and the provider that streams the call over a websocket.

The provider is the one thing that is not real: its side of the socket is played here, with the messages of
its documentation. There is no API of it over which a bot could hang up.

    Telnyx  https://developers.telnyx.com/docs/voice/programmable-voice/media-streaming
    Plivo   https://plivo.com/docs/voice/audio-streaming/audio-streaming
    Exotel  https://developer.exotel.com/docs/agentstream/stream-voicebot-applet
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from moshi_agent_adapters.protocols import g711

RATE_HZ = 8_000
PACKET_SAMPLES = 160

Message = dict[str, Any]
Pcm = NDArray[np.int16]  # [N] at 8 kHz


@dataclass(frozen=True, kw_only=True)
class Provider:
    """What a provider says and hears on its websocket."""

    opening: Sequence[Message]  # once it is connected
    media: Callable[
        [int, str], Message
    ]  # what a packet of the caller comes in: its number, from 1, and payload
    closing: Sequence[Message]  # when the caller has hung up
    reply: Message  # what it wants the bot's audio in, without the payload
    encode: Callable[[Pcm], bytes]
    decode: Callable[[bytes], Pcm]
    takes: Callable[[int], bool] = bool  # whether it takes so many bytes at once


class PhoneCall:
    """A call that goes on: packets of 20 ms out, silent unless `say` has something, and all that comes in."""

    def __init__(self, url: str, provider: Provider) -> None:
        self._url, self._provider = url, provider
        self._to_say = np.zeros(0, np.int16)
        self.flowing = asyncio.Event()  # cleared, packets wait, and come at once when it is set again
        self.flowing.set()
        self.heard: list[tuple[float, Pcm]] = []  # with the time at which it came
        self.messages: list[Message] = []  # of the bot, without their payloads
        self.sizes: list[int] = []  # of the payloads, in bytes

    async def __aenter__(self) -> Self:
        self.socket: ClientConnection = await connect(self._url)
        for message in self._provider.opening:
            await self.send(message)
        self._tasks = [asyncio.create_task(self._talk()), asyncio.create_task(self._listen())]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        with suppress(ConnectionClosed):
            for message in self._provider.closing:
                await self.send(message)
        await self.socket.close()
        await asyncio.gather(*self._tasks)

    async def send(self, message: Message) -> None:
        await self.socket.send(json.dumps(message))

    @property
    def is_over(self) -> bool:
        """Whether one of the two has hung up."""
        return self.socket.close_code is not None

    def say(self, pcm: Pcm) -> None:
        """Speaks from now on, without waiting for the end."""
        self._to_say = np.concatenate([self._to_say, pcm])

    async def _talk(self) -> None:
        began, number = time.monotonic(), 0
        with suppress(ConnectionClosed):
            while True:
                number += 1
                await asyncio.sleep(max(0.0, began + 0.02 * number - time.monotonic()))
                await self.flowing.wait()
                packet, self._to_say = self._to_say[:PACKET_SAMPLES], self._to_say[PACKET_SAMPLES:]
                data = self._provider.encode(np.pad(packet, (0, PACKET_SAMPLES - len(packet))))
                await self.send(self._provider.media(number, base64.b64encode(data).decode()))

    async def _listen(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self.socket:
                message = json.loads(text)
                if "media" in message:
                    data = base64.b64decode(message["media"].pop("payload"))
                    self.sizes.append(len(data))
                    self.heard.append((time.monotonic(), self._provider.decode(data)))
                self.messages.append(message)

    def heard_since(self, since: float) -> Pcm:
        """What has come since then, on the monotonic clock."""
        return np.concatenate([np.zeros(0, np.int16), *(pcm for at, pcm in self.heard if at >= since)])

    def loud_s(self, since: float = 0.0) -> float:
        """Seconds of speech that have come since then, on the monotonic clock."""
        loud = [np.abs(pcm.astype(int)) > 500 for at, pcm in self.heard if at >= since]
        return sum(float(part.any()) * len(part) for part in loud) / RATE_HZ

    def is_quiet(self, for_s: float) -> bool:
        """Whether nothing has been said for so long."""
        return self.loud_s(since=time.monotonic() - for_s) == 0


def packet_content(number: int, payload: str) -> Message:
    """What Twilio and Telnyx tell of a packet."""
    return {"track": "inbound", "chunk": str(number), "timestamp": str(20 * number), "payload": payload}


def telnyx(law: Literal["mu", "a"]) -> Provider:
    """Streams in the encoding of the call, and hears mu-law unless the stream was asked to be otherwise."""
    encoding = {"mu": "PCMU", "a": "PCMA"}[law]
    start = {
        "user_id": "U0",
        "call_control_id": "v3:C0",
        "call_session_id": "S0",
        "from": "+15550100",
        "to": "+15550199",
        "media_format": {"encoding": encoding, "sample_rate": 8000, "channels": 1},
    }

    def media(number: int, payload: str) -> Message:
        content = packet_content(number, payload)
        return {"event": "media", "sequence_number": str(number + 1), "stream_id": "T0", "media": content}

    return Provider(
        opening=[
            {"event": "connected", "version": "1.0.0"},
            {"event": "start", "sequence_number": "1", "stream_id": "T0", "start": start},
        ],
        media=media,
        closing=[{"event": "stop", "stream_id": "T0", "stop": {"call_control_id": "v3:C0", "user_id": "U0"}}],
        reply={"event": "media", "media": {}},
        encode=lambda pcm: g711.encode(pcm, law),
        decode=lambda data: g711.decode(data, "mu"),
    )


def plivo() -> Provider:
    """Has no message before the start, and none at the end."""
    start = {
        "callId": "C0",
        "streamId": "P0",
        "accountId": "MA0",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
    }

    def media(number: int, payload: str) -> Message:
        content = {"track": "inbound", "chunk": number, "timestamp": str(20 * number), "payload": payload}
        return {"event": "media", "sequenceNumber": number + 1, "streamId": "P0", "media": content}

    return Provider(
        opening=[{"event": "start", "sequenceNumber": 1, "start": start, "extra_headers": ""}],
        media=media,
        closing=[],
        reply={
            "event": "playAudio",
            "streamId": "P0",
            "media": {"contentType": "audio/x-mulaw", "sampleRate": 8000},
        },
        encode=lambda pcm: g711.encode(pcm, "mu"),
        decode=lambda data: g711.decode(data, "mu"),
    )


def exotel() -> Provider:
    """Streams samples of 16 bits, little-endian."""
    start = {
        "stream_sid": "E0",
        "call_sid": "C0",
        "account_sid": "A0",
        "from": "+15550100",
        "to": "+15550199",
        "custom_parameters": {"language": "en"},
        "media_format": {"encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps"},
    }

    def media(number: int, payload: str) -> Message:
        content = {"chunk": str(number), "timestamp": str(20 * number), "payload": payload}
        return {"event": "media", "sequence_number": str(number + 1), "stream_sid": "E0", "media": content}

    return Provider(
        opening=[
            {"event": "connected"},
            {"event": "start", "sequence_number": "1", "stream_sid": "E0", "start": start},
        ],
        media=media,
        closing=[{"event": "stop", "stream_sid": "E0", "stop": {"call_sid": "C0", "reason": "callended"}}],
        reply={"event": "media", "stream_sid": "E0", "media": {}},
        encode=lambda pcm: pcm.astype("<i2").tobytes(),
        decode=lambda data: np.frombuffer(data, "<i2").astype(np.int16),
        takes=lambda size: size >= 3200 and size % 320 == 0,
    )
