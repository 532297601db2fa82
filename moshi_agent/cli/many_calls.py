"""Measures an engine with many callers at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from moshi_agent import Engine
from moshi_agent.audio.framing import SAMPLE_RATE_HZ
from moshi_agent.cli.call_metrics import CallMetrics, batches_between, percentiles_ms, recent_ms, table
from moshi_agent.cli.callers import Beginning, Crowd, Line, full_context, spoken_questions
from moshi_agent.cli.machine import device_bytes, machine_name, resident_bytes, versions
from moshi_agent.cli.model import check_device
from moshi_agent.cli.timer_jitter import TimerJitter
from moshi_agent.config import KVCache
from moshi_agent.outputs import naming, whole_file


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What `moshi-agent bench` was asked to do with callers."""

    model: str
    device: str
    threads: int
    sessions: tuple[int, ...]
    find_most: int | None  # at most so many
    seconds: float
    warm_up: float  # seconds, left out of the metrics
    rate: int  # Hz, of the callers' audio
    jitter: float  # ms
    process: bool
    dtype: str | None
    kv_cache: KVCache
    cuda_graphs: bool
    full_context: bool
    json: Path | None

    @property
    def capacity(self) -> int:
        """Rows of the engine."""
        return max(*self.sessions, self.find_most or 1, 1)


def print_call_metrics(benchmark: Benchmark) -> None:
    """Runs it, prints a table, and writes the JSON.

    Raises:
        MoshiAgentError: the model, the device or the output is no good, or a conversation broke.
    """
    check_device(benchmark.device)
    runs = asyncio.run(_all_runs(benchmark))
    where = "a process of its own" if benchmark.process else "the callers' process"
    click.echo(f"{benchmark.model} on {machine_name(benchmark.device)}; the engine in {where}")
    click.echo(table(runs))
    if benchmark.find_most:
        click.echo(f"Largest number that holds: {most_that_hold(runs)}")
    _write(benchmark, runs)


def _write(benchmark: Benchmark, runs: list[CallMetrics]) -> None:
    if benchmark.json:
        with whole_file(benchmark.json) as file, naming(benchmark.json):
            file.write_text(json.dumps(as_json(benchmark, runs), indent=2) + "\n", encoding="utf-8")


def as_json(benchmark: Benchmark, runs: list[CallMetrics]) -> dict[str, Any]:
    """Returns the metrics of the only run, or all runs as a list, and what it takes to repeat them."""
    several: dict[str, Any] = {"runs": [run.as_json() for run in runs]}
    metrics = runs[0].as_json() if len(runs) == 1 else several
    if benchmark.find_most:
        metrics["most_sessions"] = most_that_hold(runs)
    return metrics | {
        "model": benchmark.model,
        "device": benchmark.device,
        "threads": benchmark.threads,
        "process": benchmark.process,
        "kv_cache": benchmark.kv_cache,
        "full_context": benchmark.full_context,
        "warm_up_s": benchmark.warm_up,
        "input_rate_hz": benchmark.rate,
        "jitter_ms": benchmark.jitter,
        "machine": machine_name(benchmark.device),
        "versions": versions(),
    }


def most_that_hold(runs: list[CallMetrics]) -> int:
    """Returns the largest number of callers that was served in time; 0 if none was."""
    return max((run.sessions for run in runs if run.holds), default=0)


async def _all_runs(benchmark: Benchmark) -> list[CallMetrics]:
    engine = await asyncio.to_thread(_load, benchmark)
    async with engine:
        beginning = Beginning()
        if benchmark.full_context:
            beginning = await full_context(engine, spoken_questions(SAMPLE_RATE_HZ))
        line = Line(rate_hz=benchmark.rate, jitter_s=benchmark.jitter / 1000)
        crowd = Crowd(engine, line, beginning)

        async def run(sessions: int) -> CallMetrics:
            await crowd.resize(sessions)
            return await _measure(engine, crowd, benchmark)

        runs: list[CallMetrics] = []
        for sessions in benchmark.sessions:
            runs.append(await run(sessions))
            _write(benchmark, runs)  # what there is stays, should a larger number break down
        if benchmark.find_most:
            runs += await find_most(run, benchmark.find_most, most_that_hold(runs))
        await crowd.resize(0)
        return runs


def _load(benchmark: Benchmark) -> Engine:
    return Engine.load(
        benchmark.model,
        shared=False,
        device=benchmark.device,
        threads=benchmark.threads,
        capacity=benchmark.capacity,
        dtype=benchmark.dtype,
        kv_cache=benchmark.kv_cache,
        cuda_graphs=benchmark.cuda_graphs,
        process=benchmark.process,
        admit_by_time=False,  # what is too many is to be measured, not refused
    )


async def find_most(
    run: Callable[[int], Awaitable[CallMetrics]], limit: int, holds: int = 0
) -> list[CallMetrics]:
    """Doubles the number of callers while it holds, then halves the rest.

    A number that does not hold is tried again: one blip of the machine says nothing about the engine.

    Args:
        holds: a number that has held already, from which the search goes on.

    Returns:
        The last run of every number that was tried, by callers.
    """
    runs: dict[int, CallMetrics] = {}
    low, high = (
        min(holds, limit),
        limit + 1,
    )  # the largest that holds and the smallest that does not, as far as is known
    while low + 1 < high:
        sessions = min(max(1, 2 * low), limit) if high > limit else (low + high) // 2
        for _ in range(_TRIES):
            runs[sessions] = await run(sessions)
            if runs[sessions].holds:
                break
        low, high = (sessions, high) if runs[sessions].holds else (low, sessions)
    return [metrics for _, metrics in sorted(runs.items())]


_TRIES = 3  # of a number of callers, before it is said not to hold


async def _measure(engine: Engine, crowd: Crowd, benchmark: Benchmark) -> CallMetrics:
    await asyncio.sleep(benchmark.warm_up)
    engine.restart_percentiles()
    before, started = await asyncio.to_thread(engine.metrics), time.monotonic()
    with TimerJitter() as jitter:
        for _ in tqdm(range(10), desc=f"{len(crowd.callers)} callers", leave=False, disable=None):
            await asyncio.sleep(benchmark.seconds / 10)
            crowd.check()
        machine_late_ms = jitter.close()
    after, ended = await asyncio.to_thread(engine.metrics), time.monotonic()
    answers = [a for caller in crowd.callers for a in caller.answers if started <= a.at < ended]
    late_s = [late for caller in crowd.callers for at, late in caller.late_s if started <= at < ended]
    return CallMetrics(
        sessions=len(crowd.callers),
        seconds=ended - started,
        frames=len(answers),
        frame_latency_ms=percentiles_ms([answer.latency_s for answer in answers]),
        engine_latency_ms=recent_ms(after.latency_s),
        step_ms=recent_ms(after.step_s),
        queue_wait_ms=recent_ms(after.queue_wait_s),
        backlog_ms=recent_ms(after.backlog_s),
        push_late_ms=percentiles_ms(late_s),
        machine_late_ms=machine_late_ms,
        batches=batches_between(before, after),
        skipped_frames=after.skipped_frames - before.skipped_frames,
        stalled_frames=after.stalled_frames - before.stalled_frames,
        dropped_audible_samples=after.dropped_audible_samples - before.dropped_audible_samples,
        real_time_factor=(after.step_s.total - before.step_s.total) / (ended - started),
        resident_bytes=resident_bytes(),
        device_bytes=device_bytes(benchmark.device),
    )
