"""The example for Pipecat's runner, called as the runner calls it, from a WebRTC client of aiortc's."""

from __future__ import annotations

import asyncio
import fractions
import importlib.util
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from aiortc import AudioStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame
from pipecat.runner.types import SmallWebRTCRunnerArguments
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

from moshi_agent import Engine
from tests.adapters.pipecat.pipecat_calls import question, until

pytestmark = pytest.mark.real_time

EXAMPLE = Path(__file__).parents[3] / "examples" / "pipecat_bot.py"


def load_example() -> ModuleType:
    """The example as a module: it is a program and belongs to no package."""
    spec = importlib.util.spec_from_file_location("pipecat_bot", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Microphone(AudioStreamTrack):
    """Silence in real time, and what `say` is given, at 48 kHz."""

    def __init__(self) -> None:
        super().__init__()
        self._samples = 0
        self._to_say = np.empty(0, np.int16)
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        self._to_say = question(text, 48_000)

    async def recv(self) -> AudioFrame:
        self._samples += 960
        await asyncio.sleep(max(0.0, self._began + self._samples / 48_000 - time.monotonic()))
        pcm, self._to_say = self._to_say[:960], self._to_say[960:]
        frame = AudioFrame.from_ndarray(np.pad(pcm, (0, 960 - len(pcm)))[None], layout="mono")
        frame.sample_rate, frame.pts = 48_000, self._samples
        frame.time_base = fractions.Fraction(1, 48_000)
        return frame


class Visitor:
    """Somebody with a browser: a microphone, and how long the bot was heard so far."""

    def __init__(self) -> None:
        self.microphone = Microphone()
        self.loud_s = 0.0

    async def listen(self, track: Any) -> None:
        while True:
            frame = await track.recv()
            loud = np.abs(frame.to_ndarray().astype(int)).max() > 1000
            self.loud_s += bool(loud) * frame.samples / frame.sample_rate


@asynccontextmanager
async def visit(example: ModuleType) -> AsyncIterator[Visitor]:
    """A connection to the bot, from offer and answer to the end of the bot's call."""
    visitor, client, tasks = Visitor(), RTCPeerConnection(), []
    client.addTrack(visitor.microphone)
    client.createDataChannel("chat")
    client.on("track", lambda track: tasks.append(asyncio.ensure_future(visitor.listen(track))))
    await client.setLocalDescription(await client.createOffer())
    connection = SmallWebRTCConnection()
    await connection.initialize(client.localDescription.sdp, client.localDescription.type)
    bot = asyncio.create_task(example.bot(SmallWebRTCRunnerArguments(webrtc_connection=connection)))
    await connection.connect()
    answer = connection.get_answer()
    await client.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
    try:
        yield visitor
    finally:
        await client.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait_for(bot, 20)


@pytest.mark.slow
def test_it_greets_and_answers_a_visitor() -> None:
    async def call() -> tuple[float, float]:
        async with visit(load_example()) as visitor:
            await until(lambda: visitor.loud_s > 1.0, 40)
            await quiet(visitor)
            greeting_s = visitor.loud_s
            visitor.microphone.say("Hello there.")
            await until(lambda: visitor.loud_s > greeting_s + 1.0, 40)
            return greeting_s, visitor.loud_s

    with Engine.load("tiny", capacity=4) as engine:  # the one that the example shares
        greeting_s, _ = asyncio.run(call())
        assert engine.metrics().opened_sessions == 1
        assert greeting_s < 6.0


async def quiet(visitor: Visitor) -> None:
    """Waits until the bot has said nothing for a second."""
    heard_s = -1.0
    while visitor.loud_s > heard_s:
        heard_s = visitor.loud_s
        await asyncio.sleep(1.0)
