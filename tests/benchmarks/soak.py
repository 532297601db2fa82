"""Ten minutes of conversations that come and go, in real time: is the memory flat, is every row freed?

    python tests/benchmarks/soak.py [--minutes 10] [--callers 8] [--model tiny]

Every caller speaks sample questions in real time, 20 ms at a time, listens for a while, hangs up and calls
again. Prints a line a minute; the exit status is 1 if memory still grows after the first minute, or if a row,
a thread or a task is left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np
import soundfile as sf

from moshi_agent import AudioChunk, Engine, EngineFull, SessionConfig
from moshi_agent.questions import sample_questions

CHUNK_S = 0.02
MOST_GROWTH_MB = 10.0  # from the first minute's end to the last's


class Caller:
    """One who calls again and again."""

    def __init__(self, engine: Engine, number: int, until: float) -> None:
        self._engine, self._until = engine, until
        self._draw = random.Random(number)
        self.calls = self.refused = 0
        self.heard_s = 0.0

    async def run(self) -> None:
        while time.monotonic() < self._until:
            await asyncio.sleep(self._draw.uniform(0, 2))
            try:
                await self._call()
                self.calls += 1
            except EngineFull:
                self.refused += 1

    async def _call(self) -> None:
        question = self._draw.choice(sample_questions())
        pcm, rate_hz = sf.read(question.path, dtype="float32")
        pcm = np.concatenate([pcm, np.zeros(round(rate_hz * self._draw.uniform(1, 8)), np.float32)])
        async with self._engine.session(SessionConfig(tail_ms=500)) as session:
            listening = asyncio.create_task(self._listen(session))
            step, started = round(rate_hz * CHUNK_S), time.monotonic()
            for start in range(0, len(pcm), step):
                await asyncio.sleep(max(0.0, started + start / rate_hz - time.monotonic()))
                await session.send_audio(pcm[start : start + step], rate_hz)
            if self._draw.random() < 0.5:
                await session.finish()
            session.close()
            await listening

    async def _listen(self, session: object) -> None:
        async for event in session:  # type: ignore[attr-defined]
            if isinstance(event, AudioChunk):
                self.heard_s += len(event.pcm) / event.sample_rate


def resident_mb() -> float:
    """Memory in use now; where the system does not tell, the most there ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


async def watch(engine: Engine, callers: list[Caller], until: float) -> list[float]:
    """A line a minute, and at the end. Returns the memory in MB at each."""
    started, sizes = time.monotonic(), []
    print("minute  rss_mb  calls  refused  live  latency_p99_ms  stalled  skipped", flush=True)
    while time.monotonic() < until:
        await asyncio.sleep(max(0.01, min(60.0, until - time.monotonic())))
        gc.collect()
        sizes.append(resident_mb())
        figures = engine.metrics()
        print(
            f"{(time.monotonic() - started) / 60:6.1f}  {sizes[-1]:6.1f}  {sum(c.calls for c in callers):5}"
            f"  {sum(c.refused for c in callers):7}  {figures.live_sessions:4}"
            f"  {1000 * figures.latency_s.p99:14.1f}  {figures.stalled_frames:7}  {figures.skipped_frames:7}",
            flush=True,
        )
    return sizes


async def soak(engine: Engine, count: int, minutes: float) -> bool:
    """Whether nothing grew and nothing was left."""
    until = time.monotonic() + 60 * minutes
    callers = [Caller(engine, number, until) for number in range(count)]
    calls = [asyncio.create_task(caller.run()) for caller in callers]
    sizes = await watch(engine, callers, until)
    await asyncio.gather(*calls)
    await asyncio.sleep(0.5)
    tasks, live = len(asyncio.all_tasks()) - 1, engine.metrics().live_sessions
    growth = sizes[-1] - sizes[0]
    print(f"after the first line: {growth:+.1f} MB; rows in use: {live}; tasks left: {tasks}")
    return growth <= MOST_GROWTH_MB and not live and not tasks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    threads = threading.active_count()
    with Engine.load(options.model, capacity=options.callers) as engine:
        is_well = asyncio.run(soak(engine, options.callers, options.minutes))
    left = threading.active_count() - threads
    print(f"threads left: {left}")
    return 0 if is_well and left <= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
