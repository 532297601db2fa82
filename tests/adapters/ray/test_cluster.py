"""Replicas on Ray, with real callers: they come, go, are full and are killed, and calls go on.

One cluster for all: it takes a minute to begin. The tests stand in the order of its life. They want two idle
cores, since Ray gives a node thirty seconds to begin, and so run with `pytest -m load`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`: pip install moshi-agent[ray]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from tests.adapters.ray.ray_lines import Line, line
from tests.adapters.ray.ray_process import Cluster, Replicas, serving_on_ray
from tests.adapters.server.server_clients import Gate, Heard, ask_kyutai, ask_live, question
from tests.adapters.webrtc.webrtc_asking import ask_signalling

pytestmark = [pytest.mark.slow, pytest.mark.load, pytest.mark.real_time, pytest.mark.timeout(1800)]
ANSWER = "tiny talking model"
CAPACITY = 3
AT_ONCE = 8  # calls of one address, in all replicas


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One to three replicas; one more for more than two calls each."""
    options = ("--replicas", "1-3", "--capacity", str(CAPACITY), "--target-load", "0.7")
    limits = ("--calls-per-address", str(AT_ONCE))
    with serving_on_ray(*options, *limits, "--scale-up-seconds", "1", "--scale-down-seconds", "5") as cluster:
        yield cluster


def are_open(number: int) -> Callable[[Replicas], bool]:
    """So many replicas take calls, or more: the calls of a moment may want one more."""
    return lambda found: sum(not one["draining"] for one in found.values()) >= number


async def wait_for_one_replica(cluster: Cluster) -> None:
    """Until the others have gone."""
    await cluster.wait_for(lambda found: len(found) == 1)


def live(found: Replicas) -> int:
    """Calls, of all replicas, as they have reported."""
    return sum(one["live"] for one in found.values())


async def keep_calling(
    cluster: Cluster, calls: AsyncExitStack, number: int, until: Callable[[Replicas], bool]
) -> None:
    """Begins calls while there are less than so many, until it holds for the replicas."""
    last = time.monotonic() + cluster.patience_s
    while not until(found := await asyncio.to_thread(cluster.replicas)):
        assert time.monotonic() < last, f"waited in vain: {found}"
        if live(found) < number:
            with suppress(ConnectionRefusedError):
                await calls.enter_async_context(line(cluster))
        await asyncio.sleep(1.5)  # the replicas report once a second


async def insist(ask: Callable[[], Coroutine[Any, Any, Heard]]) -> Heard:
    """Calls until a replica takes the call: of several at once, one may come to a full one."""
    while True:
        with suppress(ConnectionRefusedError):
            return await ask()
        await asyncio.sleep(1)


@asynccontextmanager
async def line_on_a_replica_without_one(cluster: Cluster) -> AsyncIterator[Line]:
    """A call on a replica that had none, which is there a moment before Serve's proxy knows of it."""
    until = time.monotonic() + cluster.patience_s
    while time.monotonic() < until:
        async with AsyncExitStack() as calls:
            with suppress(ConnectionRefusedError):  # by a full one
                call = await calls.enter_async_context(line(cluster))
                await asyncio.sleep(3)  # the replicas report once a second
                found = await asyncio.to_thread(cluster.replicas)
                if all(one["live"] for one in found.values()):
                    yield call
                    return
        await asyncio.sleep(1)
    raise AssertionError("no call came to the replica without one")


def test_a_second_replica_comes_for_more_calls_and_one_goes_without_a_call_noticing(cluster: Cluster) -> None:
    async def talk() -> None:
        async with line(cluster), line(cluster), line(cluster):
            await cluster.wait_for(are_open(2))
            async with line_on_a_replica_without_one(cluster) as there:
                assert there.ended is None
        # One call on each: that is too few for two replicas, and one of them goes, with its call.
        async with line(cluster) as first, line_on_a_replica_without_one(cluster) as second:
            await cluster.wait_for(lambda found: any(one["draining"] for one in found.values()))
            heard = await ask_kyutai(cluster.websocket, question("What is your name?"), ANSWER)
            assert ANSWER in heard.text
            await asyncio.sleep(5)
            now = time.monotonic()
            assert first.ended is None and second.ended is None
            assert now - first.heard_at[-1] < 2 and now - second.heard_at[-1] < 2
        await wait_for_one_replica(cluster)

    asyncio.run(talk())


def test_eight_calls_over_three_protocols_on_three_replicas_are_answered(cluster: Cluster) -> None:
    """A ninth is one too many of its address, though a replica has a place."""

    async def talk() -> None:
        async with AsyncExitStack() as calls:
            for number in (3, 5):  # more than two replicas are meant for
                await keep_calling(cluster, calls, number, are_open(1 + number // 2))
        await cluster.wait_for(lambda found: not live(found))
        path = find_question("What is your name?", sample_questions()).path
        asked, at_48 = question("What is your name?"), read_audio(path, 48_000)
        gate = Gate(asyncio.Event(), on_begun=lambda: None)  # all ask at once, when all have begun
        asks: list[Callable[[], Coroutine[Any, Any, Heard]]] = [
            *[lambda: ask_kyutai(cluster.websocket, asked, ANSWER, gate=gate)] * 3,
            *[lambda: ask_live(cluster.websocket, asked, ANSWER, gate=gate)] * 3,
            *[lambda: ask_signalling(cluster.url, at_48, ANSWER, gate=gate)] * 2,
        ]
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(insist(ask)) for ask in asks]
            await cluster.wait_for(lambda found: live(found) == AT_ONCE)
            with pytest.raises(ConnectionRefusedError, match=f"{AT_ONCE} calls at once"):
                async with line(cluster):
                    pass
            gate.opened.set()
        assert len(asking) == AT_ONCE
        for one in (task.result() for task in asking):
            assert one.text.strip().startswith("My name is Moshi") and one.energy > 1

    asyncio.run(talk())


def test_of_a_killed_replica_the_callers_are_told_and_others_notice_nothing(cluster: Cluster) -> None:
    async def talk() -> None:
        await wait_for_one_replica(cluster)  # those that other tests have left go first
        async with line(cluster) as first, line(cluster) as second, line(cluster) as third:
            await cluster.wait_for(are_open(2))
            async with line_on_a_replica_without_one(cluster) as there:
                before = set(await asyncio.to_thread(cluster.replicas))
                calls = [first, second, third, there]
                victim = replica_processes(cluster.process.pid)[0]
                killed_at = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                await asyncio.sleep(2)
                told = [one for one in calls if one.ended is not None]
                others = [one for one in calls if one.ended is None]
                assert told and others, "each replica had calls"
                assert all(one.ended_at - killed_at < 2 for one in told)
                assert all(time.monotonic() - one.heard_at[-1] < 1 for one in others)
                heard = await ask_kyutai(cluster.websocket, question("What is your name?"), ANSWER)
                assert ANSWER in heard.text, "who was cut off calls again"
                async with AsyncExitStack() as again:  # with three calls, two replicas are wanted
                    await keep_calling(cluster, again, 3, lambda found: bool(set(found) - before))
                told_s = max(one.ended_at for one in told) - killed_at
                print(f"told after {told_s:.2f} s, a new replica after {time.monotonic() - killed_at:.0f} s")

    asyncio.run(talk())


def replica_processes(root: int) -> list[int]:
    """Those of the replicas that this process has begun, through whatever is between."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])

    def is_ours(process: int) -> bool:
        return process == root or (process in parents and is_ours(parents[process]))

    return [one for one in names if "ray::ServeReplica" in names[one] and is_ours(one)]


def test_health_and_metrics_are_those_of_all(cluster: Cluster) -> None:
    status, body = cluster.get("/metrics")
    assert status == 200
    names = {f'replica="{name}"' for name in cluster.replicas()}
    lines = [row for row in body.decode().splitlines() if row.startswith("moshi_agent_live_sessions{")]
    assert len(lines) == len(names) and all(any(name in row for row in lines) for name in names)
    assert cluster.get("/health")[0] == 200


def test_another_version_takes_the_place_of_this_one_and_calls_go_on(cluster: Cluster) -> None:
    """Of as many replicas as there are: Serve would let those that are too many drain first."""

    async def talk() -> None:
        async with line(cluster) as first, line(cluster), line(cluster):
            await cluster.wait_for(are_open(2))
            async with line_on_a_replica_without_one(cluster) as second:
                before = set(await asyncio.to_thread(cluster.replicas))

                def are_replaced(found: Replicas) -> bool:
                    new = [one for name, one in found.items() if name not in before]
                    return bool(new) and all(one["draining"] for name, one in found.items() if name in before)

                options: dict[str, Any] = {
                    "model": "tiny",
                    "replicas": "1-3",
                    "capacity": CAPACITY,
                    "overcommit": True,
                    "calls_per_address": AT_ONCE,
                }
                await asyncio.to_thread(cluster.redeploy, **options, idle_seconds=90)
                await cluster.wait_for(are_replaced)
                heard = await ask_kyutai(cluster.websocket, question("What is your name?"), ANSWER)
                assert ANSWER in heard.text
                now = time.monotonic()
                assert first.ended is None and second.ended is None
                assert now - first.heard_at[-1] < 2 and now - second.heard_at[-1] < 2

    asyncio.run(talk())


def test_sigterm_lets_calls_end_and_ends(cluster: Cluster) -> None:
    async def talk() -> None:
        async with line(cluster) as there:
            cluster.process.terminate()
            await asyncio.sleep(4)
            assert there.ended is None and time.monotonic() - there.heard_at[-1] < 2

    asyncio.run(talk())
    assert cluster.process.wait(90) == 0
