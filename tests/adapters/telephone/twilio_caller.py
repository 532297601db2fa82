"""The other side of a phone agent: somebody who dials through Twilio, and Twilio itself.

Speaks the webhook and the Media Streams protocol over real sockets, as described in
https://www.twilio.com/docs/voice/media-streams/websocket-messages
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

import aiohttp
import numpy as np
from numpy.typing import NDArray

from tests.adapters.pipecat.phone_calls import Message, PhoneCall, Provider, packet_content

PUBLIC_URL = "https://agent.example.com"
CALLER = "+15550000001"  # one of the customers that the database begins with


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
    form = [("CallSid", call_sid), ("From", CALLER), ("To", "+15550199"), ("CallerName", "")]
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
        "customParameters": {"token": token, "phone": CALLER},
    }
    return {"event": "start", "sequenceNumber": "1", "streamSid": "MZ0", "start": start}


CONNECTED = {"event": "connected", "protocol": "Call", "version": "1.0.0"}


def twilio(call_sid: str, token: str) -> Provider:
    """The media stream of a call."""

    def media(number: int, payload: str) -> Message:
        content = packet_content(number, payload)
        return {"event": "media", "sequenceNumber": str(number + 1), "streamSid": "MZ0", "media": content}

    return Provider(
        opening=[CONNECTED, start_message(call_sid, token)],
        media=media,
        closing=[{"event": "stop", "streamSid": "MZ0", "stop": {"accountSid": "AC0", "callSid": call_sid}}],
        reply={"event": "media", "streamSid": "MZ0", "media": {}},
        encode=to_mu_law,
        decode=lambda data: MU_LAW[np.frombuffer(data, np.uint8)],
    )


class TwilioCall(PhoneCall):
    """A call to the phone agent, which has a path of its own for the stream."""

    def __init__(self, port: int, call_sid: str, token: str) -> None:
        super().__init__(f"ws://127.0.0.1:{port}/media", twilio(call_sid, token))

    async def press(self, digit: str) -> None:
        await self.send({"event": "dtmf", "streamSid": "MZ0", "dtmf": {"digit": digit}})
