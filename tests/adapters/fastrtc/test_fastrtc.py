"""FastRTC's own server and its websocket: a question is asked and answered, and rows come back."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("fastrtc", reason="needs FastRTC: pip install moshi-agent[fastrtc]")

from websockets.asyncio.client import ClientConnection, connect

from moshi_agent import Engine, SessionConfig
from moshi_agent_adapters.fastrtc import MoshiHandler
from moshi_agent_adapters.protocols.g711 import decode, encode
from tests.adapters.fastrtc.fastrtc_calls import MARKS, answers_within_s, asked, live

pytestmark = MARKS
RATE_HZ = 24_000  # FastRTC takes a websocket's mu-law for sound of the handler's rate
QUESTION = asked("What is your name?", RATE_HZ)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine.load("tiny", capacity=1, shared=False) as engine:
        yield engine


def _offer(url: str) -> str:
    return url.replace("http", "ws", 1) + "/websocket/offer"


async def _begin(socket: ClientConnection, name: str) -> None:
    await socket.send(json.dumps({"event": "start", "websocket_id": name}))


async def _ask(socket: ClientConnection) -> None:
    samples = np.concatenate(
        [np.zeros(RATE_HZ // 2, np.float32), QUESTION, np.zeros(3 * RATE_HZ, np.float32)]
    )
    for start in range(0, len(samples), 480):
        pcm = (samples[start : start + 480] * 32767).astype(np.int16)
        payload = base64.b64encode(encode(pcm, "mu")).decode()
        await socket.send(json.dumps({"event": "media", "media": {"payload": payload}}))
        await asyncio.sleep(0.02)


async def _heard(socket: ClientConnection, seconds: float) -> list[np.ndarray]:
    pieces, end = list[np.ndarray](), time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            async with asyncio.timeout(end - time.monotonic()):
                message = json.loads(await socket.recv())
        except TimeoutError:
            break
        if message.get("event") == "media":
            pieces.append(decode(base64.b64decode(message["media"]["payload"]), "mu") / 32768)
    return pieces


def test_a_question_is_answered_and_the_row_comes_back(engine: Engine, url: str) -> None:
    async def call() -> list[np.ndarray]:
        async with connect(_offer(url)) as socket:
            await _begin(socket, "one")
            asking = asyncio.create_task(_ask(socket))
            pieces = await _heard(socket, 9.0)
            await asking
            assert engine.capacity().live == 1
            return pieces

    heard = np.concatenate(asyncio.run(call()))
    assert np.abs(heard).max() > 0.1, "the bot has said something"
    asyncio.run(live(engine, 0))


def test_who_finds_no_row_is_hung_up_on_and_the_other_goes_on(engine: Engine, url: str) -> None:
    async def calls() -> None:
        async with connect(_offer(url)) as first, connect(_offer(url)) as second:
            await _begin(first, "first")
            await asyncio.sleep(1.0)
            await _begin(second, "second")
            assert not any(np.abs(piece).max() > 0.05 for piece in await _heard(second, 2.0))
            assert engine.capacity().live == 1
            assert await answers_within_s(url) < 1.0
            await _heard(first, 0.5)  # what has waited meanwhile
            assert await _heard(first, 1.0), "sound still comes"

    asyncio.run(calls())


@pytest.mark.parametrize(("by_telephone", "rate_hz"), [(False, 24_000), (True, 8_000)])
def test_whatever_the_configuration_a_call_is_live_and_at_the_rate_of_its_line(
    engine: Engine, by_telephone: bool, rate_hz: int
) -> None:
    """A conversation that is not live says nothing until it hears something."""

    async def call() -> None:
        config = SessionConfig(live=False, output_sample_rate=48_000)
        handler = MoshiHandler(engine, config).copy()
        handler.phone_mode = by_telephone
        await handler.start_up()
        async with asyncio.timeout(20):
            while not isinstance(sound := await handler.emit(), tuple):
                pass
        assert sound[0] == rate_hz
        await handler.shutdown()

    asyncio.run(call())
