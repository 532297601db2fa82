"""What is counted of conversations and of their engine."""

from __future__ import annotations

import pickle
import threading
import tracemalloc
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.engine.metrics.histogram import Distribution
from moshi_agent.engine.metrics.metrics import EngineMetrics, Metrics, SessionMetrics

FRAMES = st.tuples(
    st.integers(0, 2),  # the conversation
    st.one_of(st.none(), st.floats(0, 1)),  # latency
    st.integers(0, 4),  # skipped
    st.integers(0, 1000),  # silent samples dropped
)


@given(st.lists(FRAMES, max_size=60))
def test_an_engine_counts_the_sum_of_its_conversations(
    script: list[tuple[int, float | None, int, int]],
) -> None:
    metrics = Metrics()
    sessions = [SessionMetrics() for _ in range(3)]
    for session in sessions:
        metrics.opened(session)
    for index, latency_s, skipped, dropped in script:
        sessions[index].frame(latency_s=latency_s, skipped=skipped, stalled=latency_s is None)
        sessions[index].dropped(dropped)
        sessions[index].dropped(2 * dropped, silent=False)
    total, reports = metrics.snapshot(), [session.snapshot() for session in sessions]
    assert total.frames == sum(latency_s is not None for _, latency_s, _, _ in script)
    assert total.skipped_frames == sum(skipped for _, _, skipped, _ in script)
    assert total.dropped_audible_samples == 2 * total.dropped_silent_samples
    for name in (
        "frames",
        "stalled_frames",
        "skipped_frames",
        "dropped_silent_samples",
        "dropped_audible_samples",
    ):
        assert getattr(total, name) == sum(getattr(report, name) for report in reports)
    assert total.latency_s.count == sum(report.latency_s.count for report in reports)
    latencies_s = [latency_s for _, latency_s, _, _ in script if latency_s is not None]
    if latencies_s:
        assert total.latency_s.p95 == pytest.approx(np.percentile(latencies_s, 95))
        assert total.latency_s.max == max(latencies_s)


def test_a_frame_is_measured_where_it_waited_and_what_it_left_behind() -> None:
    metrics, session = Metrics(), SessionMetrics()
    metrics.opened(session)
    session.frame(latency_s=0.03, waited_s=0.01, backlog_s=0.16)
    session.frame(latency_s=None, stalled=True)
    total = metrics.snapshot()
    assert (total.frames, total.stalled_frames) == (1, 1)
    assert (total.queue_wait_s.count, total.queue_wait_s.max) == (1, 0.01)
    assert (total.backlog_s.count, total.backlog_s.max) == (2, 0.16)
    assert session.snapshot().backlog_s == 0.0


def test_a_conversation_counts_in_its_engine_while_it_is_open() -> None:
    metrics, session = Metrics(), SessionMetrics()
    session.frame(latency_s=0.01)
    metrics.opened(session)
    metrics.opened(session)
    session.frame(latency_s=0.01)
    assert metrics.snapshot().live_sessions == 1
    metrics.closed(session)
    metrics.closed(session)
    session.frame(latency_s=0.01)
    total = metrics.snapshot()
    assert (total.frames, total.live_sessions, total.opened_sessions) == (1, 0, 1)
    assert session.snapshot().frames == 3


def test_steps_faults_and_refusals_are_counted() -> None:
    metrics = Metrics()
    for size in (1, 2, 3):
        metrics.step(0.01 * size, size)
    metrics.refused()
    metrics.error()
    metrics.error()
    metrics.restarted()
    metrics.set_healthy(False)
    total = metrics.snapshot()
    assert (total.step_s.count, total.step_s.p50, total.step_s.max) == (3, 0.02, 0.03)
    assert (total.batch_size.mean, total.batch_size.max) == (2, 3)
    assert (total.refused_sessions, total.errors, total.restarts, total.healthy) == (1, 2, 1, False)


def test_percentiles_begin_anew_and_counts_go_on() -> None:
    metrics, session = Metrics(), SessionMetrics()
    metrics.opened(session)
    for seconds in (5.0, 0.02):
        metrics.restart_percentiles()
        metrics.step(seconds, 1)
        session.frame(latency_s=seconds, waited_s=seconds, backlog_s=seconds)
    figures = metrics.snapshot()
    measured = (figures.step_s, figures.latency_s, figures.queue_wait_s, figures.backlog_s)
    assert all(distribution.count == 2 for distribution in measured)
    assert all(distribution.p99 == pytest.approx(0.02) for distribution in measured)


def test_a_new_engine_is_healthy_and_has_done_nothing() -> None:
    total = Metrics().snapshot()
    for field in fields(EngineMetrics):
        value = getattr(total, field.name)
        assert (
            value is True
            if field.name == "healthy"
            else (value.count == 0 and value.p99 == 0 if isinstance(value, Distribution) else value == 0)
        )


def test_no_count_is_lost_between_threads() -> None:
    metrics = Metrics()
    sessions = [SessionMetrics() for _ in range(4)]

    def talk(session: SessionMetrics) -> None:
        for _ in range(1000):
            metrics.opened(session)
            session.frame(latency_s=0.01, skipped=1)
            metrics.refused()
            metrics.closed(session)

    threads = [threading.Thread(target=talk, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = metrics.snapshot()
    assert total.frames == total.skipped_frames == total.latency_s.count == 4000
    assert total.opened_sessions == total.refused_sessions == 4000
    assert total.live_sessions == 0


def test_a_long_day_of_conversations_leaves_no_memory_behind() -> None:
    metrics = Metrics()

    def call() -> None:
        session = SessionMetrics()
        metrics.opened(session)
        for _ in range(50):
            session.frame(latency_s=0.02, waited_s=0.001)
            metrics.step(0.01, 1)
        metrics.closed(session)

    call()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(200):
        call()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 5000


def test_figures_travel_between_processes() -> None:
    metrics, session = Metrics(), SessionMetrics()
    metrics.opened(session)
    session.frame(latency_s=0.02)
    total, report = metrics.snapshot(), session.snapshot()
    assert pickle.loads(pickle.dumps((total, report))) == (total, report)
