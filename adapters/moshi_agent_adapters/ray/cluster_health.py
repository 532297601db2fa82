"""What machines ask of all replicas together: whether they are well, whether there is room, their figures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from moshi_agent_adapters.ray.report import Report

Reports = Callable[[], Awaitable[Sequence[Report]]]


def cluster_routes(reports: Reports) -> list[BaseRoute]:
    """Makes `/health`, `/ready` and `/metrics` of all replicas, whichever of them answers."""

    async def health(_: Request) -> Response:
        known = await reports()
        well = [report for report in known if report.is_healthy]
        body = {"status": "ok" if well else "failing", "replicas": len(known), "healthy": len(well)}
        return JSONResponse(body, 200 if well else 503)

    async def ready(_: Request) -> Response:
        known = await reports()
        open_ones = [report for report in known if report.is_healthy and not report.is_draining]
        free = sum(report.free for report in open_ones)
        body = {"ready": free > 0, "free": free, "replicas": [_in_short(report) for report in known]}
        return JSONResponse(body, 200 if free else 503)

    async def metrics(_: Request) -> Response:
        registry = CollectorRegistry()
        registry.register(_Labelled(await reports()))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)]


def _in_short(report: Report) -> dict[str, Any]:
    return {
        "replica": report.replica,
        "live": report.live,
        "free": report.free,
        "healthy": report.is_healthy,
        "draining": report.is_draining,
    }


class _Labelled(Collector):
    """The metrics of all replicas, each with the name of its replica as a label."""

    def __init__(self, reports: Iterable[Report]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        """Yields each metric once, with the samples of all replicas."""
        merged: dict[str, Metric] = {}
        for report in self._reports:
            for family in text_string_to_metric_families(report.metrics.decode()):
                metric = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = sample.labels | {"replica": report.replica}
                    metric.samples.append(sample._replace(labels=labels))
        yield from merged.values()
