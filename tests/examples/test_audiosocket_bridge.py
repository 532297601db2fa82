"""`examples/audiosocket_bridge.py`, called over TCP by what speaks Asterisk's AudioSocket."""

from __future__ import annotations

import asyncio
import importlib.util
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from moshi_agent import Engine
from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions

EXAMPLE = Path(__file__).parents[2] / "examples" / "audiosocket_bridge.py"
HANG_UP, CALL_ID, DIGIT, AUDIO, AUDIO_16K, ERROR = 0x00, 0x01, 0x03, 0x10, 0x12, 0xFF
UUID = bytes(range(16))
PATIENCE_S = 60.0

pytestmark = pytest.mark.timeout(300)


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BH", kind, len(payload)) + payload


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audiosocket_bridge", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load("tiny", capacity=1, admit_by_time=False, shared=False) as engine:
        yield engine


class Asterisk:
    """One call: packets of 20 ms out, silent unless `say` has something, and all that comes in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.got: list[tuple[float, int, bytes]] = []
        self._to_say = b""
        self._tasks = [asyncio.create_task(self._listen())]

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.writer.write(message(kind, payload))

    def say(self, pcm: bytes) -> None:
        self._to_say += pcm

    def talk(self, kind: int, packet_bytes: int) -> None:
        self._tasks.append(asyncio.create_task(self._talk(kind, packet_bytes)))

    async def _talk(self, kind: int, packet_bytes: int) -> None:
        began, number = time.monotonic(), 0
        while True:
            packet, self._to_say = self._to_say[:packet_bytes], self._to_say[packet_bytes:]
            self.send(kind, packet.ljust(packet_bytes, b"\0"))
            number += 1
            await asyncio.sleep(max(0.0, began + 0.02 * number - time.monotonic()))

    async def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                kind, size = struct.unpack(">BH", await self._reader.readexactly(3))
                self.got.append((time.monotonic(), kind, await self._reader.readexactly(size)))

    @property
    def kinds(self) -> list[int]:
        return [kind for _, kind, _ in self.got]

    def loudest(self, since: float) -> int:
        """Of the samples that have come since then."""
        pcm = b"".join(data for at, kind, data in self.got if kind == AUDIO and at >= since)
        return int(np.abs(np.frombuffer(pcm, "<i2").astype(int)).max(initial=0))

    async def is_hung_up(self) -> None:
        """Waits for the end of the connection."""
        await asyncio.wait_for(self._tasks[0], PATIENCE_S)

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.writer.close()


@asynccontextmanager
async def calling(example: ModuleType, engine: Engine) -> AsyncGenerator[Callable[[], Any]]:
    """A bridge that listens; gives what calls it."""
    calls: list[Asterisk] = []
    server = await asyncio.start_server(example.Bridge(engine).take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def call() -> Asterisk:
        calls.append(Asterisk(*await asyncio.open_connection("127.0.0.1", port)))
        return calls[-1]

    async with server:
        yield call
        for one in calls:
            await one.leave()
        await free(engine)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def free(engine: Engine) -> None:
    await until(lambda: engine.metrics().live_sessions == 0)


@pytest.mark.real_time
@pytest.mark.slow
def test_a_caller_is_greeted_asks_and_is_answered_in_packets_of_20_ms(
    example: ModuleType, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Any] = []

    def session(*arguments: Any, **options: Any) -> Any:
        sessions.append(Engine.session(engine, *arguments, **options))
        return sessions[-1]

    monkeypatch.setattr(engine, "session", session)
    question = read_audio(find_question("What is the capital of France?", sample_questions()).path, 16_000)

    def said() -> str:
        return " ".join(turn.text for turn in sessions[0].transcript.turns)

    async def talk() -> None:
        async with calling(example, engine) as call:
            caller = await call()
            caller.send(CALL_ID, UUID)
            caller.talk(AUDIO_16K, 640)
            await until(lambda: bool(sessions) and "help you" in said())
            await asyncio.sleep(3)
            caller.send(DIGIT, b"5")
            caller.send(AUDIO, b"odd")  # is refused by itself
            asked = time.monotonic()
            caller.say((question * 32_767).astype("<i2").tobytes())
            await until(lambda: "Paris" in said())
            await until(lambda: caller.loudest(asked) > 2000)
            assert {kind for kind in caller.kinds} == {AUDIO}
            assert {len(data) for _, _, data in caller.got} == {320}
            took_s = caller.got[-1][0] - caller.got[0][0]
            assert abs(len(caller.got) * 0.02 - took_s) < 0.5
            caller.send(HANG_UP)
            await caller.is_hung_up()
            assert caller.kinds[-1] == HANG_UP

    asyncio.run(talk())


@pytest.mark.parametrize(
    "first",
    [message(AUDIO, bytes(320)), message(CALL_ID, b"short"), b"GET / HTTP/1.1\r\n\r\n" + bytes(40_000)],
)
def test_what_begins_no_call_is_hung_up_on(example: ModuleType, engine: Engine, first: bytes) -> None:
    async def talk() -> None:
        async with calling(example, engine) as call:
            caller = await call()
            caller.writer.write(first)
            await caller.is_hung_up()
            assert caller.kinds[:1] in ([ERROR], [])  # a reset may come before
            assert engine.metrics().live_sessions == 0

    asyncio.run(talk())


def test_a_call_too_many_is_told_and_a_lost_one_frees_its_row(example: ModuleType, engine: Engine) -> None:
    async def talk() -> None:
        async with calling(example, engine) as call:
            first, second = await call(), await call()
            first.send(CALL_ID, UUID)
            await until(lambda: AUDIO in first.kinds)
            second.send(CALL_ID, UUID)
            await second.is_hung_up()
            assert second.kinds == [ERROR, HANG_UP]
            first.writer.transport.abort()
            await free(engine)

    asyncio.run(talk())
