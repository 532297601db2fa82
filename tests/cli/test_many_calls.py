"""`moshi-agent bench` with callers: whose frame is answered when, the search, the table, and a real run."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import Engine
from moshi_agent.audio.framing import FRAME_SAMPLES
from moshi_agent.cli import main
from moshi_agent.cli.call_metrics import CallMetrics, Percentiles, batches_between, percentiles_ms, table
from moshi_agent.cli.callers import FrameTimes, full_context, spoken_questions
from moshi_agent.cli.many_calls import find_most, most_that_hold
from moshi_agent.cli.timer_jitter import TimerJitter
from moshi_agent.engine.metrics.metrics import Metrics
from moshi_agent.errors import EngineUnhealthy
from moshi_agent.events import AudioChunk, Event, InputResumed, InputSkipped, InputStalled

NONE = Percentiles(p50=0.0, p95=0.0, p99=0.0)
FIGURES = CallMetrics(
    sessions=2,
    seconds=10.0,
    frames=250,
    frame_latency_ms=Percentiles(p50=10.0, p95=20.0, p99=30.123456),
    engine_latency_ms=NONE,
    step_ms=Percentiles(p50=8.0, p95=9.0, p99=9.5),
    queue_wait_ms=NONE,
    backlog_ms=NONE,
    push_late_ms=NONE,
    machine_late_ms=NONE,
    batches={"1": 100, "2": 75},
    skipped_frames=0,
    stalled_frames=0,
    dropped_audible_samples=0,
    real_time_factor=0.2,
    resident_bytes=500_000_000,
    device_bytes=None,
)


def _event(kind: type[Event], frame: int, **fields: object) -> Event:
    return kind(frame=frame, media_s=0.08 * frame, wall_s=0.0, **fields)


def _audio(frame: int) -> Event:
    return _event(AudioChunk, frame, pcm=np.zeros(1920, np.float32), sample_rate=24_000)


def _times(frames: int, begins_at_frame: int = 0) -> FrameTimes:
    """Frame number n was complete at second n + 1, and nothing at the half seconds."""
    times = FrameTimes(begins_at_frame)
    for number in range(frames):
        times.pushed(number, number + 0.5)
        times.pushed(number + 1, number + 1.0)
    return times


def test_audio_answers_the_frame_of_its_number() -> None:
    answered = _times(3).heard(_audio(1), now=2.03)
    assert answered is not None
    assert (answered.at, answered.latency_s) == (2.03, pytest.approx(0.03))


def test_a_resumed_conversation_counts_frames_from_its_snapshot() -> None:
    answered = _times(3, begins_at_frame=128).heard(_audio(128), now=1.5)
    assert answered is not None
    assert answered.latency_s == pytest.approx(0.5)


@given(st.lists(st.sampled_from(["hear", "stall", "skip"]), max_size=40))
def test_stalls_and_skips_do_not_confuse_which_frame_is_answered(script: list[str]) -> None:
    times = _times(2 * len(script) + 1)
    heard = silences = skipped = 0
    for frame, what in enumerate(script):
        if what == "stall":
            if not silences:
                assert times.heard(_event(InputStalled, frame), 0.0) is None
            assert times.heard(_audio(frame), 0.0) is None
            silences += 1
        else:
            if silences:
                times.heard(_event(InputResumed, frame, silent_frames=silences), 0.0)
                silences = 0
            if what == "skip":
                times.heard(_event(InputSkipped, frame, frames=1), 0.0)
                skipped += 1
            answered = times.heard(_audio(frame), now=100.0)
            assert answered is not None
            assert answered.latency_s == 100 - (heard + skipped + 1)
            heard += 1


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_search_finds_the_largest_number_that_holds(most: int, limit: int) -> None:
    tried: list[int] = []

    async def run(sessions: int) -> CallMetrics:
        tried.append(sessions)
        late = replace(FIGURES.frame_latency_ms, p99=90.0)
        metrics = replace(FIGURES, sessions=sessions)
        return metrics if sessions <= most else replace(metrics, frame_latency_ms=late)

    runs = asyncio.run(find_most(run, limit))
    assert most_that_hold(runs) == min(most, limit)
    assert [metrics.sessions for metrics in runs] == sorted(set(tried))
    assert all(tried.count(sessions) == (1 if sessions <= most else 3) for sessions in tried)
    assert len(set(tried)) <= 2 * limit.bit_length() + 1
    assert max(tried) <= limit


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 100))
def test_the_search_goes_on_after_a_blip_and_from_what_has_held(most: int, limit: int, held: int) -> None:
    held = min(held, most)
    tried: list[int] = []

    async def run(sessions: int) -> CallMetrics:
        tried.append(sessions)
        fails = sessions > most or tried.count(sessions) == 1  # the first time, always
        return replace(FIGURES, sessions=sessions, skipped_frames=int(fails))

    runs = asyncio.run(find_most(run, limit, held))
    assert max(most_that_hold(runs), min(held, limit)) == min(most, limit)
    assert all(sessions > held for sessions in tried)


@pytest.mark.real_time
def test_the_machine_s_own_lateness_is_measured_and_told() -> None:
    with TimerJitter() as jitter:
        time.sleep(1.0)
        late = jitter.close()
    assert 0 < late.p50 <= late.p95 <= late.p99 < 10_000
    noisy = replace(FIGURES, machine_late_ms=Percentiles(p50=1.0, p95=30.0, p99=77.0))
    assert "77 ms late" in table([noisy]) and "late" not in table([FIGURES]).split("\n", 3)[3]


@pytest.mark.parametrize(
    "worse",
    [
        {"frame_latency_ms": replace(FIGURES.frame_latency_ms, p99=80.0)},
        {"skipped_frames": 1},
        {"dropped_audible_samples": 1},
        {"frames": 0},
    ],
)
def test_who_is_late_or_incomplete_does_not_hold(worse: dict) -> None:
    assert FIGURES.holds
    assert not replace(FIGURES, **worse).holds


def test_percentiles_are_those_of_numpy_in_ms() -> None:
    seconds = np.random.default_rng(0).random(1000).tolist()
    measured = percentiles_ms(seconds)
    assert [measured.p50, measured.p95, measured.p99] == pytest.approx(
        (1000 * np.percentile(seconds, [50, 95, 99])).tolist()
    )
    assert percentiles_ms([]) == NONE


def test_batches_are_counted_without_the_warm_up() -> None:
    metrics = Metrics()
    metrics.step(0.01, 7)
    before = metrics.snapshot()
    for size in (1, 1, 2, 3, 4, 300):
        metrics.step(0.01, size)
    assert batches_between(before, metrics.snapshot()) == {"1": 2, "2": 1, "3-4": 2, "257-": 1}


def test_the_table_has_a_line_for_each_number_and_fits_its_head() -> None:
    lines = table([FIGURES, replace(FIGURES, sessions=160, skipped_frames=3)]).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert "10.0 / 20.0 / 30.1" in lines[2]
    assert lines[2].endswith(" yes |")
    assert lines[3].endswith(" no |")
    assert "2 callers: steps by conversations in them: 1: 100, 2: 75" in lines


def test_a_conversation_whose_context_is_full_is_where_callers_begin() -> None:
    async def begin() -> tuple[int, int]:
        questions = spoken_questions(24_000)[:2]
        async with Engine.load("tiny", shared=False, device="cpu", capacity=1) as engine:
            with pytest.raises(EngineUnhealthy, match="not full after"):
                await full_context(engine, [questions[0][: 10 * FRAME_SAMPLES]], longest_s=0.5)
            beginning = await full_context(engine, questions)
            async with engine.session(resume=beginning.snapshot) as session:
                session.push(np.zeros(FRAME_SAMPLES, np.float32))
                async for event in session:
                    if isinstance(event, AudioChunk):
                        return beginning.frames, event.frame
        raise AssertionError("no audio")

    frames, first = asyncio.run(begin())
    assert frames == first >= 128  # the context of `tiny`


@pytest.mark.real_time
@pytest.mark.parametrize("process", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_callers_of_the_built_in_model_are_timed(process: bool, tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    args = ["--sessions", "2", "--seconds", "1.5", "--warm-up", "0.5", "--json", str(out)]
    result = CliRunner().invoke(main, ["bench", *args, "--process" if process else "--no-process"])
    assert result.exit_code == 0, result.output
    metrics = json.loads(out.read_text())
    assert metrics["sessions"] == 2
    assert metrics["process"] is process
    assert set(metrics["frame_latency_ms"]) == set(metrics["step_ms"]) == {"p50", "p95", "p99"}
    assert 0 < metrics["step_ms"]["p50"] <= metrics["frame_latency_ms"]["p99"]
    assert metrics["frames"] > 0
    assert 0 < metrics["real_time_factor"] <= 1.2
    assert metrics["resident_bytes"] > 100e6
    assert metrics["machine"] in result.output
    assert {"torch", "moshi_agent", "python"} <= set(metrics["versions"])


def test_several_numbers_are_several_runs(tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    args = ["--sessions", "2", "--sessions", "1", "--seconds", "0.5", "--warm-up", "0.2", "--no-process"]
    result = CliRunner().invoke(main, ["bench", *args, "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert [run["sessions"] for run in json.loads(out.read_text())["runs"]] == [2, 1]


@pytest.mark.parametrize("args", [["--json", "metrics.json"], ["--full-context"]])
def test_options_of_callers_without_callers_are_wrong_usage(args: list[str]) -> None:
    result = CliRunner().invoke(main, ["bench", *args])
    assert result.exit_code == 2
    assert "--sessions" in result.stderr
