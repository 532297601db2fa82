"""What machines ask of a server: whether it is well, whether it has room, its figures, its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from moshi_agent import EngineUnhealthy
from moshi_agent.engine.metrics import prometheus
from moshi_agent_adapters.server.server import Server


def routes(server: Server) -> Sequence[BaseRoute]:
    """The endpoints, for an application."""
    engine = server.engine
    registry = CollectorRegistry()
    prometheus.register(engine.metrics, registry)
    registry.register(server.loop_lag.histogram)

    async def health(request: Request) -> Response:
        healthy = (await engine.metrics_async()).healthy
        return JSONResponse({"status": "ok" if healthy else "failing"}, 200 if healthy else 503)

    async def ready(request: Request) -> Response:
        try:
            capacity = await engine.capacity_async()
        except EngineUnhealthy as error:
            return JSONResponse({"ready": False, "draining": server.is_draining, "refusal": str(error)}, 503)
        is_ready = capacity.free > 0 and not server.is_draining
        step_ms = {str(rows): round(ms, 3) for rows, ms in capacity.step_ms.items()}
        body = asdict(capacity) | {"ready": is_ready, "draining": server.is_draining, "step_ms": step_ms}
        return JSONResponse(body, 200 if is_ready else 503)

    def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def models(request: Request) -> Response:
        model = {"id": server.config.model_name, "object": "model", "created": 0, "owned_by": "moshi-agent"}
        return JSONResponse({"object": "list", "data": [model]})

    return [
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
        Route("/v1/models", models),
    ]
