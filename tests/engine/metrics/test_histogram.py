"""Distributions: exact counts for ever, percentiles of what is recent, and no more memory than that."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.engine.metrics.histogram import Histogram

BOUNDS = (0.0, 0.01, 0.08, 0.5, 2.0)
VALUES = st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 10)), max_size=200)


@given(VALUES, st.integers(1, 64))
def test_a_distribution_is_what_numpy_says_of_the_same_values(values: list[float], recent: int) -> None:
    histogram = Histogram(BOUNDS, recent)
    for value in values:
        histogram.observe(value)
    read = histogram.read()
    assert read.count == len(values)
    assert read.total == pytest.approx(sum(values))
    assert read.mean == pytest.approx(np.mean(values) if values else 0.0)
    assert read.max == max(values, default=0.0)
    at_most = [sum(value <= bound for value in values) for bound in BOUNDS]
    assert np.cumsum(read.buckets).tolist() == [*at_most, len(values)]
    expected = np.percentile(values[-recent:], [50, 95, 99]) if values else np.zeros(3)
    assert [read.p50, read.p95, read.p99] == pytest.approx(expected.tolist())


@given(VALUES, VALUES, st.integers(1, 64))
def test_percentiles_that_begin_anew_leave_out_what_was_before(
    before: list[float], after: list[float], recent: int
) -> None:
    histogram = Histogram(BOUNDS, recent)
    for value in before:
        histogram.observe(value)
    histogram.restart_percentiles()
    for value in after:
        histogram.observe(value)
    read = histogram.read()
    assert read.count == len(before) + len(after)
    expected = np.percentile(after[-recent:], [50, 95, 99]) if after else np.zeros(3)
    assert [read.p50, read.p95, read.p99] == pytest.approx(expected.tolist())


def test_a_million_values_take_no_more_memory_than_the_first_thousand() -> None:
    histogram = Histogram(BOUNDS, recent=1000)
    for value in np.linspace(0, 3, 1000).tolist():
        histogram.observe(value)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(50_000):
        histogram.observe(0.04)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1000
    assert histogram.read().p99 == 0.04
    assert histogram.read().count == 51_000


def test_what_was_read_does_not_change_any_more() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe(0.04)
    before = histogram.read()
    histogram.observe(1.0)
    assert (before.count, before.max, before.p50, before.buckets) == (1, 0.04, 0.04, (0, 0, 1, 0, 0, 0))


def test_a_reader_beside_the_writer_sees_only_whole_values() -> None:
    histogram = Histogram(BOUNDS, recent=4096)
    over = threading.Event()

    def write() -> None:
        for _ in range(30_000):
            histogram.observe(1.0)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    counts = [0]
    while not over.is_set():
        read = histogram.read()
        assert read.count == 0 or read.p50 == read.p99 == 1.0
        counts.append(read.count)
    writer.join()
    assert counts == sorted(counts)
    assert histogram.read().count == 30_000


@pytest.mark.parametrize("bounds", [(1.0, 0.5), (1.0, 1.0)])
def test_bounds_that_do_not_ascend_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        Histogram(bounds)


def test_percentiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one recent value, not 0"):
        Histogram(BOUNDS, recent=0)
