"""Many short conversations, one after the other and at once: nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import tracemalloc

import numpy as np

from moshi_agent import AudioChunk, Ended, Engine, SessionConfig

SECONDS = 6.0
CALLERS = 8
SPEECH = np.random.default_rng(0).normal(0, 0.05, 48_000).astype(np.float32)


class Caller:
    """Calls, says something, listens for a while, and hangs up in one of many ways; again and again."""

    def __init__(self, engine: Engine, number: int, until: float) -> None:
        self.engine, self.until = engine, until
        self.draw = random.Random(number)
        self.calls = self.chunks = 0

    async def call_for_ever(self) -> None:
        while time.monotonic() < self.until:
            await self.call()
            self.calls += 1

    async def call(self) -> None:
        config = SessionConfig(live=False, tail_ms=0, longest_tail_ms=80)
        way = self.draw.choice(["finish", "close", "drop", "fail"])
        try:
            async with self.engine.session(config) as session:
                await session.send_audio(SPEECH[: self.draw.randrange(2_000, 12_000)])  # a frame at least
                if way == "finish":
                    session.finish()
                async for event in session:
                    self.chunks += isinstance(event, AudioChunk)
                    if isinstance(event, AudioChunk | Ended) and way != "finish":
                        break
                if way == "fail":
                    raise KeyError
        except KeyError:
            assert way == "fail"
        if way == "drop":
            self.engine.open_session(config).push(SPEECH[:3000])
            await asyncio.sleep(0)


async def _calls(engine: Engine, seconds: float) -> list[Caller]:
    callers = [Caller(engine, number, time.monotonic() + seconds) for number in range(CALLERS)]
    await asyncio.gather(*(caller.call_for_ever() for caller in callers))
    assert len(asyncio.all_tasks()) == 1
    return callers


def in_use(engine: Engine) -> int:
    """Bytes that Python holds, once every row is free."""
    deadline = time.monotonic() + 20
    while engine.metrics().live_sessions and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.metrics().live_sessions == 0
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_eight_callers_who_come_and_go_leave_nothing_behind(engine: Engine) -> None:
    threads = set(threading.enumerate())
    opened = engine.metrics().opened_sessions
    tracemalloc.start()
    try:
        asyncio.run(_calls(engine, SECONDS / 4))
        before = in_use(engine)
        callers = asyncio.run(_calls(engine, SECONDS * 3 / 4))
        after = in_use(engine)
    finally:
        tracemalloc.stop()
    assert sum(caller.calls for caller in callers) > 12
    assert all(caller.chunks for caller in callers)
    assert engine.metrics().opened_sessions - opened > 15
    assert after - before < 300_000
    assert set(threading.enumerate()) <= threads
    assert engine.metrics().healthy
    assert engine.metrics().errors == 0
