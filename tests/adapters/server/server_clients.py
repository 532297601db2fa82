"""Clients of the server that ask it a question in real time. Without torch: quick to start."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection as SyncConnection

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from moshi_agent_adapters.protocols.kyutai import Kind
from moshi_agent_adapters.protocols.live_audio import PCM_24K, LiveAudio
from moshi_agent_adapters.protocols.opus import OpusReader, OpusWriter

PATIENCE_S = 40.0  # for an answer, on a machine that has other things to do
CHUNK_S = 0.08


def rest(connection: SyncConnection) -> list[str | bytes]:
    """The messages that still come, until the server closes the connection, with whichever code."""
    messages: list[str | bytes] = []
    with suppress(ConnectionClosed):
        while True:
            messages.append(connection.recv(timeout=PATIENCE_S))
    return messages


def question(words: str) -> NDArray[np.float32]:
    """A sample question [N] at 24 kHz."""
    return read_audio(find_question(words, sample_questions()).path)


@dataclass
class Heard:
    """What a client has been told."""

    text: str = ""
    energy: float = 0.0
    samples: int = 0
    messages: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Gate:
    """Lets a client wait with its question: `on_begun` is called when its conversation has begun."""

    opened: asyncio.Event
    on_begun: Callable[[], object]


async def paced(
    samples: NDArray[np.float32], rate_hz: int = 24_000, gate: Gate | None = None
) -> AsyncIterator[NDArray[np.float32]]:
    """Chunks of 80 ms in real time: silence until the gate is open, the samples, and silence for ever."""
    start, size, asked = time.monotonic(), round(CHUNK_S * rate_hz), 0
    if gate is not None:
        gate.on_begun()
    for number in range(1_000_000):
        await asyncio.sleep(max(0.0, start + number * CHUNK_S - time.monotonic()))
        is_open = gate is None or gate.opened.is_set()
        chunk = samples[asked : asked + size] if is_open else samples[:0]
        asked += size * is_open
        yield np.concatenate([chunk, np.zeros(size - len(chunk), np.float32)])


async def ask_kyutai(
    url: str, samples: NDArray[np.float32], expected: str, query: str = "", gate: Gate | None = None
) -> Heard:
    """Asks over `/api/chat`, once the gate is open, until the expected words have come.

    Raises:
        ConnectionRefusedError: the server takes no call.
    """
    heard, reader = Heard(), OpusReader()
    async with connect(f"{url}/api/chat{query}", compression=None, open_timeout=PATIENCE_S) as websocket:
        if (first := await websocket.recv()) != Kind.HANDSHAKE.message():
            raise ConnectionRefusedError(first)
        async with _beside(_speak_kyutai(websocket, samples, gate)), _patience(gate):
            while expected not in heard.text:
                message = await websocket.recv()
                assert isinstance(message, bytes)
                heard.messages.append(message[0])
                if message[0] == Kind.TEXT:
                    heard.text += message[1:].decode()
                elif message[0] == Kind.AUDIO:
                    for pcm in reader.push(message[1:]):
                        _add(heard, pcm)
    return heard


async def _speak_kyutai(websocket: ClientConnection, samples: NDArray[np.float32], gate: Gate | None) -> None:
    writer = OpusWriter()
    await websocket.send(Kind.AUDIO.message(writer.header()))
    async for chunk in paced(samples, gate=gate):
        await websocket.send(Kind.AUDIO.message(writer.push(chunk)))


async def ask_live(
    url: str,
    samples: NDArray[np.float32],
    expected: str,
    audio: LiveAudio = PCM_24K,
    gate: Gate | None = None,
) -> Heard:
    """Asks over `/v1/live/sessions`, as `ask_kyutai` does, and closes the session."""
    heard = Heard()
    async with connect(f"{url}/v1/live/sessions", open_timeout=PATIENCE_S) as websocket:
        session = {"model": "gpt-live-1", "audio": {"format": audio.name}}
        await websocket.send(json.dumps({"type": "session.start", "session": session}))
        event = json.loads(await websocket.recv())
        heard.messages.append(event)
        if event["type"] != "session.started":
            raise ConnectionRefusedError(event)
        async with _beside(_speak_live(websocket, samples, audio, gate)), _patience(gate):
            while expected not in heard.text:
                event = json.loads(await websocket.recv())
                _hear_live(heard, event, audio)
        await websocket.send(json.dumps({"type": "session.close", "event_id": "bye"}))
        async for message in websocket:
            _hear_live(heard, json.loads(message), audio)
    return heard


def _hear_live(heard: Heard, event: dict[str, Any], audio: LiveAudio) -> None:
    heard.messages.append(event)
    if event["type"] == "session.output_transcript.delta":
        heard.text += event["delta"]
    elif event["type"] == "session.output_audio.delta":
        _add(heard, audio.decode(base64.b64decode(event["delta"])))


async def _speak_live(
    websocket: ClientConnection, samples: NDArray[np.float32], audio: LiveAudio, gate: Gate | None
) -> None:
    async for chunk in paced(samples, audio.rate, gate):
        encoded = base64.b64encode(audio.encode(chunk)).decode()
        await websocket.send(json.dumps({"type": "session.input_audio.append", "audio": encoded}))


@asynccontextmanager
async def _patience(gate: Gate | None) -> AsyncIterator[None]:
    """Raises TimeoutError for a block that takes longer, from the moment that the gate is open."""

    async def begin() -> None:
        if gate is not None:
            await gate.opened.wait()
        limit.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)

    async with asyncio.timeout(None) as limit, _beside(begin()):
        yield


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _add(heard: Heard, pcm: NDArray[np.int16]) -> None:
    heard.samples += len(pcm)
    heard.energy += float(np.square(pcm.astype(np.float64) / 32768).sum())
