"""The metrics of an engine, for Prometheus.

    registry = CollectorRegistry()
    register(engine.metrics, registry)
    generate_latest(registry)

The names are `moshi_agent_...`; no metric has a label that grows with the number of conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

from moshi_agent.engine.metrics.histogram import Distribution
from moshi_agent.engine.metrics.metrics import EngineMetrics

_PREFIX = "moshi_agent_"


def register(read: Callable[[], EngineMetrics], registry: CollectorRegistry) -> Collector:
    """Makes a registry serve the metrics that `read` returns at the time of each scrape.

    A registry holds one engine: a second one is refused by `prometheus_client` with a ValueError. Returns the
    collector, for `registry.unregister`.
    """
    collector = EngineCollector(read)
    registry.register(collector)
    return collector


class EngineCollector(Collector):
    """Turns metrics, as they are when asked for, into what `prometheus_client` writes."""

    def __init__(self, read: Callable[[], EngineMetrics]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Returns the names, by which a registry tells that it has them already."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Returns all metrics."""
        metrics = self._read()
        yield from _histograms(metrics)
        yield from _frame_counters(metrics)
        yield from _session_counters(metrics)


def _histograms(metrics: EngineMetrics) -> Iterator[Metric]:
    yield _histogram("step_seconds", "Time of a frame step", metrics.step_s)
    yield _histogram("listening_seconds", "Time of the recogniser's step after it", metrics.listening_s)
    yield _histogram("batch_size", "Conversations in a frame step", metrics.batch_size)
    yield _histogram("queue_wait_seconds", "From the arrival of a frame to its step", metrics.queue_wait_s)
    yield _histogram(
        "frame_latency_seconds", "From the last sample of a frame to the audio it gives", metrics.latency_s
    )
    yield _histogram(
        "input_backlog_seconds", "Input of a conversation that waits at each of its frames", metrics.backlog_s
    )


def _frame_counters(metrics: EngineMetrics) -> Iterator[Metric]:
    yield _counter("frames", "Frames of input heard", metrics.frames)
    yield _counter("stalled_frames", "Silences heard where input was missing", metrics.stalled_frames)
    yield _counter("skipped_frames", "Silent input left out to catch up", metrics.skipped_frames)
    dropped = CounterMetricFamily(
        _PREFIX + "dropped_samples",
        "Output left out: silence to catch up, or audio nobody took",
        labels=["kind"],
    )
    dropped.add_metric(["silent"], metrics.dropped_silent_samples)
    dropped.add_metric(["audible"], metrics.dropped_audible_samples)
    yield dropped


def _session_counters(metrics: EngineMetrics) -> Iterator[Metric]:
    yield _gauge("live_sessions", "Conversations now", metrics.live_sessions)
    yield _counter("opened_sessions", "Conversations begun", metrics.opened_sessions)
    yield _counter("refused_sessions", "Conversations that found no room", metrics.refused_sessions)
    yield _counter("errors", "Conversations that a fault ended", metrics.errors)
    yield _counter("restarts", "Times the engine was rebuilt after a fault", metrics.restarts)
    yield _gauge("healthy", "1 while the engine takes conversations, else 0", metrics.healthy)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, documentation, value)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, documentation, value)


def _histogram(name: str, documentation: str, distribution: Distribution) -> Metric:
    at_most = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*distribution.bounds, float("inf")), distribution.buckets, strict=True):
        at_most += count
        buckets.append((floatToGoString(bound), at_most))
    return HistogramMetricFamily(_PREFIX + name, documentation, buckets, distribution.total)
