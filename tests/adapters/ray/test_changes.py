"""Two replicas that are full, replaced by another version, and become three: what their callers notice.

One cluster for all; the tests stand in the order of its life.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra `ray`: pip install moshi-agent[ray]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import Samples
from moshi_agent.questions import find_question, sample_questions
from moshi_agent_adapters.talk.connection import Ears, Moved, ServerAddress, converse
from tests.adapters.ray.ray_lines import Line, line
from tests.adapters.ray.ray_process import Cluster, Replicas, serving_on_ray
from tests.adapters.server.server_clients import Gate, Heard, ask_kyutai, ask_live, paced, question
from tests.adapters.webrtc.webrtc_asking import ask_signalling

pytestmark = [pytest.mark.slow, pytest.mark.load, pytest.mark.real_time, pytest.mark.timeout(900)]
ANSWER = "tiny talking model"
CAPACITY = 2
DRAIN_S = 20.0
OPTIONS: dict[str, Any] = {
    "model": "tiny",
    "replicas": 2,
    "capacity": CAPACITY,
    "overcommit": True,
    "calls_per_address": 32,
    "drain_seconds": DRAIN_S,
}
LONGEST_REFUSAL_S = 5.0  # with the setting up of a WebRTC connection


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_on_ray(
        "--replicas", "2", "--capacity", str(CAPACITY), "--drain-seconds", str(DRAIN_S)
    ) as cluster:
        yield cluster


async def begin(cluster: Cluster, calls: AsyncExitStack, number: int) -> list[Line]:
    """So many calls. One that comes to a full replica, since others come at once, is tried again."""
    begun: list[Line] = []
    while len(begun) < number:
        with suppress(ConnectionRefusedError):
            begun.append(await calls.enter_async_context(line(cluster)))
    return begun


def open_ones(found: Replicas) -> set[str]:
    return {name for name, one in found.items() if not one["draining"]}


def test_full_replicas_refuse_at_once_in_each_protocols_words(cluster: Cluster) -> None:
    path = find_question("What is your name?", sample_questions()).path
    asked, at_48 = question("What is your name?"), read_audio(path, 48_000)
    asks: list[tuple[Callable[[], Coroutine[Any, Any, Heard]], str]] = [
        (lambda: ask_kyutai(cluster.websocket, asked, ANSWER), "no row is free"),
        (lambda: ask_live(cluster.websocket, asked, ANSWER), "capacity_exceeded"),
        (lambda: ask_signalling(cluster.url, at_48, ANSWER), "engine_full"),
    ]

    async def talk() -> None:
        async with AsyncExitStack() as calls:
            lines = await begin(cluster, calls, 2 * CAPACITY)
            for ask, said in asks:
                asked_at = time.monotonic()
                with pytest.raises(ConnectionRefusedError, match=said):
                    await ask()
                assert time.monotonic() - asked_at < LONGEST_REFUSAL_S
            assert all(one.ended is None for one in lines)
        await cluster.wait_for(lambda found: not any(one["live"] for one in found.values()))

    asyncio.run(talk())


class Mover:
    """A call of our own client, which goes on wherever the conversation moves to."""

    def __init__(self, cluster: Cluster) -> None:
        self._server = ServerAddress(cluster.url)
        self.text, self.moves = "", 0
        self.heard_at: list[float] = []
        self.gate = Gate(asyncio.Event(), on_begun=lambda: None)
        self._microphone: asyncio.Queue[Samples | None] = asyncio.Queue()

    async def talk(self) -> None:
        ears = Ears(on_audio=lambda _: self.heard_at.append(time.monotonic()), on_text=self._read)
        resume: str | None = None
        while True:
            try:
                return await converse(self._server, self._microphone, ears, resume)
            except Moved as moved:
                resume = moved.resume
                self.moves += 1

    def _read(self, text: str) -> None:
        self.text += text

    async def speak(self) -> None:
        async for chunk in paced(question("What is your name?"), gate=self.gate):
            self._microphone.put_nowait(chunk)

    async def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def test_another_version_moves_who_can_move_and_lets_others_talk_until_their_time_is_over(
    cluster: Cluster,
) -> None:
    async def talk() -> None:
        before = set(await asyncio.to_thread(cluster.replicas))
        async with AsyncExitStack() as calls:
            (other,) = await begin(cluster, calls, 1)
            mover = Mover(cluster)
            tasks = [asyncio.create_task(work) for work in (mover.talk(), mover.speak())]
            await mover.wait_for(lambda: bool(mover.heard_at), 30)
            changed_at = time.monotonic()
            await asyncio.to_thread(cluster.redeploy, **OPTIONS)
            await cluster.wait_for(lambda found: not open_ones(found) & before and bool(open_ones(found)))
            await mover.wait_for(lambda: mover.moves > 0, 30)
            mover.gate.opened.set()
            await mover.wait_for(lambda: ANSWER in mover.text, 60)
            assert not tasks[0].done(), "it goes on in the new replica"
            print(f"moves: {mover.moves}; largest gap between two pieces of sound: ", end="")
            print(f"{1000 * np.diff(mover.heard_at).max():.0f} ms")
            await mover.wait_for(lambda: other.ended is not None, cluster.patience_s)
            assert other.ended is not None and other.ended.rcvd is not None, "a proper close frame"
            assert other.ended.rcvd.code == 1012 and other.ended.rcvd.reason
            assert other.ended_at - changed_at > DRAIN_S - 1, "not cut within its time"
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(talk())


def test_another_number_of_replicas_replaces_none(cluster: Cluster) -> None:
    async def talk() -> None:
        await cluster.wait_for(lambda found: len(found) == 2 and len(open_ones(found)) == 2)
        before = set(await asyncio.to_thread(cluster.replicas))
        async with AsyncExitStack() as calls:
            lines = await begin(cluster, calls, 2)
            await asyncio.to_thread(cluster.redeploy, 3, **OPTIONS)
            await cluster.wait_for(lambda found: len(found) == 3)
            found = await asyncio.to_thread(cluster.replicas)
            assert before < open_ones(found)
            assert all(one.ended is None for one in lines)

    asyncio.run(talk())


def test_where_no_replica_stays_our_own_clients_keep_their_call_as_well(cluster: Cluster) -> None:
    """Everything ends: a call that could move has nowhere to go to, and drains."""

    async def talk() -> None:
        mover = Mover(cluster)
        tasks = [asyncio.create_task(work) for work in (mover.talk(), mover.speak())]
        await mover.wait_for(lambda: bool(mover.heard_at), 30)
        cluster.process.terminate()
        await asyncio.sleep(DRAIN_S / 2)
        assert mover.moves == 0 and not tasks[0].done()
        assert time.monotonic() - mover.heard_at[-1] < 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(talk())
    assert cluster.process.wait(90) == 0
