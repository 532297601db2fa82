"""What Pipecat's transports add to the engine's own delay, there and back, and what a stall leaves behind.

    python tests/benchmarks/pipecat_latency.py websocket
    python tests/benchmarks/pipecat_latency.py webrtc --prefetch 1

A caller sends a burst of 20 ms each second over a real socket or WebRTC connection; the service notes
when it is given to the engine. On the way back the service puts a burst in the place of the voice, every
twelfth frame, when the engine's audio is there; the caller notes when it arrives. The sum of the two is the
time that is added to frame, acoustic delay and step. Needs a machine with two idle cores.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import fractions
import json
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import uvicorn
from aiortc import AudioStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame
from fastapi import FastAPI, WebSocket
from loguru import logger
from numpy.typing import NDArray
from pipecat.frames.frames import InputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner
from websockets.asyncio.client import connect

from moshi_agent import AudioChunk, Engine
from moshi_agent_adapters.pipecat import MoshiLLMService, use_short_jitter_buffers
from moshi_agent_adapters.webrtc.packet_order import set_prefetch
from tests.adapters.telephone.twilio_caller import CONNECTED, MU_LAW, start_message, to_mu_law

PACKET_S = 0.02
BURST_EVERY_PACKETS = 50
BURST_EVERY_FRAMES = 12
STALL_S = 0.4
AUDIBLE = 0.1  # a burst has half of full scale


@dataclass
class Marks:
    """When bursts went out and came in, on the monotonic clock."""

    sent: list[float] = field(default_factory=list)
    came: list[float] = field(default_factory=list)

    def arrived(self, pcm: NDArray[np.float64]) -> None:
        """Takes what has come just now, and notes the beginning of a burst."""
        now = time.monotonic()
        if np.abs(pcm).max(initial=0) > AUDIBLE and (not self.came or now - self.came[-1] > 0.5):
            self.came.append(now)

    def delays_ms(self, since: float, until: float) -> list[float]:
        """Of the bursts sent in this time."""
        found = []
        for sent in self.sent:
            came = next((at for at in self.came if sent - 0.005 <= at < sent + 0.9), None)
            if since <= sent < until and came is not None:
                found.append(1000 * (came - sent))
        return found


class MeasuredService(MoshiLLMService):
    """The service, with bursts for a voice."""

    def __init__(self, up: Marks, down: Marks, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._up, self._down = up, down

    def _hear(self, frame: InputAudioRawFrame) -> None:
        self._up.arrived(np.frombuffer(frame.audio, np.int16) / 32768)
        super()._hear(frame)

    async def _speak(self, chunk: AudioChunk) -> None:
        pcm = np.zeros_like(chunk.pcm)
        if chunk.frame % BURST_EVERY_FRAMES == 0:
            pcm[: chunk.sample_rate // 50] = tone(chunk.sample_rate)
            self._down.sent.append(time.monotonic())
        await super()._speak(replace(chunk, pcm=pcm))


def tone(rate_hz: int) -> NDArray[np.float32]:
    """20 ms, [N] at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * 500 * np.arange(rate_hz // 50) / rate_hz)).astype(np.float32)


def packet(number: int, rate_hz: int) -> NDArray[np.int16]:
    """20 ms of what the caller says, [N]."""
    pcm = tone(rate_hz) if number % BURST_EVERY_PACKETS == 25 else np.zeros(rate_hz // 50)
    return np.round(pcm * 32767).astype(np.int16)


@dataclass
class Bench:
    """One run."""

    engine: Engine
    seconds: float
    prefetch: int | None = None  # packets in the jitter buffers of both ends
    up: Marks = field(default_factory=Marks)
    down: Marks = field(default_factory=Marks)

    async def serve(self, transport: BaseTransport, rate_hz: int) -> None:
        """The pipeline of the call, until the caller leaves."""
        llm = MeasuredService(self.up, self.down, engine=self.engine)
        worker = PipelineWorker(
            Pipeline([transport.input(), llm, transport.output()]),
            params=PipelineParams(audio_in_sample_rate=rate_hz, audio_out_sample_rate=rate_hz),
            enable_rtvi=False,
        )

        @transport.event_handler("on_client_disconnected")
        async def _(transport: object, client: object) -> None:
            await worker.cancel()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()


class ServerLoop:
    """An event loop of its own for the server: a stall of it is none of the caller."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop)

    def stall(self) -> None:
        self.loop.call_soon_threadsafe(time.sleep, STALL_S)


async def over_websocket(bench: Bench, server: ServerLoop) -> float:
    """A call in Twilio's protocol at 8 kHz; returns when the stall was."""
    app = FastAPI()

    @app.websocket("/media")
    async def media(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        await websocket.receive_text()
        no_rest = TwilioFrameSerializer.InputParams(auto_hang_up=False)
        params = FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            serializer=TwilioFrameSerializer("MZ0", params=no_rest),
        )
        await bench.serve(FastAPIWebsocketTransport(websocket, params), 8_000)

    uvicorn_server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio"))
    server.begin(uvicorn_server.serve())
    while not uvicorn_server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.05)
    port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
    async with connect(f"ws://127.0.0.1:{port}/media") as socket:

        async def listen() -> None:
            async for text in socket:
                codes = np.frombuffer(base64.b64decode(json.loads(text)["media"]["payload"]), np.uint8)
                bench.down.arrived(MU_LAW[codes] / 32768)

        await socket.send(json.dumps(CONNECTED))
        await socket.send(json.dumps(start_message("CA0", "")))
        listening = asyncio.create_task(listen())
        began, stalled_at = time.monotonic(), 0.0
        for number in range(round(bench.seconds / PACKET_S)):
            await asyncio.sleep(max(0.0, began + (number + 1) * PACKET_S - time.monotonic()))
            pcm = packet(number, 8_000)
            payload = base64.b64encode(to_mu_law(pcm)).decode()
            if pcm.any():
                bench.up.sent.append(time.monotonic())
            await socket.send(json.dumps({"event": "media", "media": {"payload": payload}}))
            if not stalled_at and number * PACKET_S > bench.seconds / 2:
                stalled_at = time.monotonic()
                server.stall()
        listening.cancel()
    return stalled_at


class Microphone(AudioStreamTrack):
    """Bursts at 48 kHz, in real time."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks
        self._number = 0
        self._began = time.monotonic()

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(max(0.0, self._began + (self._number + 1) * PACKET_S - time.monotonic()))
        pcm = packet(self._number, 48_000)
        if pcm.any():
            self._marks.sent.append(time.monotonic())
        frame = AudioFrame.from_ndarray(pcm[None], layout="mono")
        frame.sample_rate, frame.pts = 48_000, self._number * 960
        frame.time_base = fractions.Fraction(1, 48_000)
        self._number += 1
        return frame


async def over_webrtc(bench: Bench, server: ServerLoop) -> float:
    """A call from an aiortc client to SmallWebRTC at 24 kHz; returns when the stall was."""
    client = RTCPeerConnection()
    client.addTrack(Microphone(bench.up))
    client.createDataChannel("signalling")
    if bench.prefetch is not None:
        for transceiver in client.getTransceivers():
            set_prefetch(transceiver.receiver, bench.prefetch)
    heard: list[asyncio.Task[None]] = []

    async def listen(track: Any) -> None:
        while True:
            frame = await track.recv()
            bench.down.arrived(frame.to_ndarray().ravel() / 32768)

    client.on("track", lambda track: heard.append(asyncio.ensure_future(listen(track))))
    await client.setLocalDescription(await client.createOffer())
    offer = client.localDescription

    async def answer() -> dict[str, str]:
        connection = SmallWebRTCConnection()
        await connection.initialize(sdp=offer.sdp, type=offer.type)
        if bench.prefetch is not None:
            use_short_jitter_buffers(connection, bench.prefetch)
        params = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
        server.begin(bench.serve(SmallWebRTCTransport(connection, params), 24_000))
        await connection.connect()
        return connection.get_answer()

    description = await server.run(answer())
    await client.setRemoteDescription(RTCSessionDescription(description["sdp"], description["type"]))
    await asyncio.sleep(bench.seconds / 2)
    stalled_at = time.monotonic()
    server.stall()
    await asyncio.sleep(bench.seconds / 2)
    for task in heard:
        task.cancel()
    await client.close()
    return stalled_at


def report(bench: Bench, stalled_at: float) -> None:
    """Medians before the stall; the way back just after it and three seconds of silence later."""
    warm, never = min(bench.down.sent) + 2, float("inf")
    up, down = bench.up.delays_ms(warm, stalled_at), bench.down.delays_ms(warm, stalled_at - 1)
    print(f"to the engine    median {np.median(up):6.1f} ms   95 % {np.percentile(up, 95):6.1f} ms")
    print(f"from the engine  median {np.median(down):6.1f} ms   95 % {np.percentile(down, 95):6.1f} ms")
    print(f"added            median {np.median(up) + np.median(down):6.1f} ms")
    after = bench.down.delays_ms(stalled_at + STALL_S, stalled_at + STALL_S + 1)
    later = bench.down.delays_ms(stalled_at + STALL_S + 3.5, never)
    print(
        f"a stall of {1000 * STALL_S:.0f} ms: from the engine {[round(ms) for ms in after]} ms just after it,"
    )
    print(f"  {np.median(later):.1f} ms three seconds later, {np.median(later) - np.median(down):+.1f} ms")
    metrics = bench.engine.metrics()
    print(f"engine: step {1000 * metrics.step_s.p50:.1f} ms, latency {1000 * metrics.latency_s.p50:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("transport", choices=["websocket", "webrtc"])
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--prefetch", type=int, help="packets in aiortc's jitter buffers; webrtc only")
    options = parser.parse_args()
    logger.remove()
    with Engine.load("tiny", device="cpu", capacity=1) as engine:
        bench = Bench(engine, options.seconds, options.prefetch)
        call = over_websocket if options.transport == "websocket" else over_webrtc
        report(bench, asyncio.run(call(bench, ServerLoop())))


if __name__ == "__main__":
    main()
