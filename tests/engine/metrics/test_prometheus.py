"""The exporter: what Prometheus' own client writes and its own parser reads."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from moshi_agent.engine.metrics.metrics import Metrics, SessionMetrics
from moshi_agent.engine.metrics.prometheus import register

LATENCIES_S = [0.005, 0.03, 0.03, 0.08, 0.3, 9.0]


@pytest.fixture
def metrics() -> Metrics:
    """An engine with two conversations, of which one is over."""
    metrics = Metrics()
    first, second = SessionMetrics(), SessionMetrics()
    for session in (first, second):
        metrics.opened(session)
    for latency_s in LATENCIES_S:
        first.frame(latency_s=latency_s, waited_s=0.002, backlog_s=0.08)
        metrics.step(0.012, 2)
    second.frame(latency_s=None, stalled=True)
    second.frame(latency_s=0.05, skipped=3)
    first.dropped(480)
    first.dropped(1920, silent=False)
    metrics.closed(second)
    metrics.refused()
    metrics.error()
    metrics.restarted()
    return metrics


def _scrape(registry: CollectorRegistry) -> dict[str, Metric]:
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def _values(families: dict[str, Metric]) -> dict[str, float]:
    """Of the samples of counters and gauges, by name and label."""
    return {
        sample.name + "".join(f":{value}" for value in sample.labels.values()): sample.value
        for family in families.values()
        if family.type != "histogram"
        for sample in family.samples
    }


def test_every_count_is_served_under_its_name(metrics: Metrics) -> None:
    registry = CollectorRegistry()
    register(metrics.snapshot, registry)
    assert _values(_scrape(registry)) == {
        "moshi_agent_frames_total": 7,
        "moshi_agent_stalled_frames_total": 1,
        "moshi_agent_skipped_frames_total": 3,
        "moshi_agent_dropped_samples_total:silent": 480,
        "moshi_agent_dropped_samples_total:audible": 1920,
        "moshi_agent_live_sessions": 1,
        "moshi_agent_opened_sessions_total": 2,
        "moshi_agent_refused_sessions_total": 1,
        "moshi_agent_errors_total": 1,
        "moshi_agent_restarts_total": 1,
        "moshi_agent_healthy": 1,
    }


def test_histograms_are_cumulative_and_end_at_infinity(metrics: Metrics) -> None:
    registry = CollectorRegistry()
    register(metrics.snapshot, registry)
    families = _scrape(registry)
    histograms = {name for name, family in families.items() if family.type == "histogram"}
    assert histograms == {
        "moshi_agent_step_seconds",
        "moshi_agent_listening_seconds",
        "moshi_agent_batch_size",
        "moshi_agent_queue_wait_seconds",
        "moshi_agent_frame_latency_seconds",
        "moshi_agent_input_backlog_seconds",
    }
    latencies_s = [*LATENCIES_S, 0.05]
    samples = families["moshi_agent_frame_latency_seconds"].samples
    buckets = {float(sample.labels["le"]): sample.value for sample in samples if "le" in sample.labels}
    assert list(buckets)[-1] == math.inf
    assert buckets == {bound: sum(value <= bound for value in latencies_s) for bound in buckets}
    sums = {sample.name.rsplit("_", 1)[1]: sample.value for sample in samples if not sample.labels}
    assert sums == {"count": 7, "sum": pytest.approx(sum(latencies_s))}


def test_a_scrape_shows_the_moment_it_is_made(metrics: Metrics) -> None:
    registry = CollectorRegistry()
    register(metrics.snapshot, registry)
    metrics.set_healthy(False)
    metrics.refused()
    values = _values(_scrape(registry))
    assert (values["moshi_agent_healthy"], values["moshi_agent_refused_sessions_total"]) == (0, 2)


def test_the_openmetrics_form_is_valid_too(metrics: Metrics) -> None:
    """Its parser is the stricter one: it checks buckets, units and suffixes."""
    registry = CollectorRegistry()
    register(metrics.snapshot, registry)
    families = list(parse_openmetrics(generate_openmetrics(registry).decode()))
    assert len(families) == 16
    assert all(family.documentation for family in families)


def test_the_names_do_not_multiply_with_the_conversations() -> None:
    metrics, registry = Metrics(), CollectorRegistry()
    register(metrics.snapshot, registry)
    before = len(generate_latest(registry).splitlines())
    for _ in range(100):
        session = SessionMetrics()
        metrics.opened(session)
        session.frame(latency_s=0.01)
    assert len(generate_latest(registry).splitlines()) == before


def test_a_registry_holds_one_engine_at_a_time(metrics: Metrics) -> None:
    registry = CollectorRegistry()
    collector = register(metrics.snapshot, registry)
    with pytest.raises(ValueError, match="moshi_agent_step_seconds"):
        register(Metrics().snapshot, registry)
    registry.unregister(collector)
    register(Metrics().snapshot, registry)
    assert _values(_scrape(registry))["moshi_agent_opened_sessions_total"] == 0
