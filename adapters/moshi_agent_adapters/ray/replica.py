"""One replica: the ASGI application of `moshi-agent serve`, and what Ray Serve asks of it."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from prometheus_client import CollectorRegistry, generate_latest
from ray import serve
from ray.exceptions import RayError
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from moshi_agent import EngineUnhealthy
from moshi_agent.engine.metrics import prometheus
from moshi_agent_adapters.ray.address_counts import BoardCounts
from moshi_agent_adapters.ray.board import BoardHandover, board_of
from moshi_agent_adapters.ray.cluster_health import cluster_routes
from moshi_agent_adapters.ray.ending import Ending
from moshi_agent_adapters.ray.report import Report
from moshi_agent_adapters.server.app import create_app, groups_for
from moshi_agent_adapters.server.command import Serve, load_engine, recording
from moshi_agent_adapters.server.heap import passing_over_what_stays, share_one_heap
from moshi_agent_adapters.server.log_format import set_up_log
from moshi_agent_adapters.server.server import Server

_log = logging.getLogger("moshi_agent.ray")
_REPORT_S = 1.0
_ANSWER_S = 2.0  # of the board, after which a replica speaks for itself alone
_SICK_S = 60.0  # after which Serve takes another replica: the engine itself is started again before


@serve.ingress()
class Replica:
    """Serves calls with an engine of its own.

    Args:
        asked: for what `moshi-agent serve` would be asked, too. Where to listen is up to Serve.
    """

    def __init__(self, asked: Serve) -> None:
        self._asked = asked
        self._until_end = ExitStack()
        self._well_at = time.monotonic()

    async def __serve_build_asgi_app__(self) -> Starlette:
        """Loads the engine and returns the application."""
        asked, context = self._asked, serve.get_replica_context()
        self._name = context.replica_tag
        self._board = board_of(context.app_name)
        set_up_log(asked.log_level, asked.log_format)
        if asked.process:
            share_one_heap()
        engine = load_engine(asked)
        self._until_end.enter_context(recording(asked, engine))
        app = create_app(engine, asked.server, (self._cluster_routes, *groups_for(engine)))
        self._server: Server = app.state.server
        self._server.handover = BoardHandover(self._board)
        limits = asked.server.calls_per_address, asked.server.starts_per_minute
        self._server.addresses.everywhere = BoardCounts(self._board, self._name, *limits)
        self._registry = CollectorRegistry()
        prometheus.register(engine.metrics, self._registry)
        self._registry.register(self._server.loop_lag.histogram)
        ending = Ending(self._server, self._name, self._reports, self._report)
        self._tasks = [asyncio.create_task(ending.watch()), asyncio.create_task(self._keep_reporting())]
        self._server.at_shutdown = [ending.wait, *self._server.at_shutdown, self._end]
        self._until_end.enter_context(passing_over_what_stays())
        return app

    def _cluster_routes(self, server: Server) -> Sequence[BaseRoute]:
        return cluster_routes(self._reports)

    # What Serve asks

    async def check_health(self) -> None:
        """Raises EngineUnhealthy where the engine has been broken for a minute: Serve then begins another."""
        now = time.monotonic()
        if (await self._server.engine.metrics_async()).healthy:
            self._well_at = now
        elif now - self._well_at > _SICK_S:
            raise EngineUnhealthy(f"the engine has been broken for {now - self._well_at:.0f} s")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Returns the calls of this replica, and how many it has places for."""
        live, free = await self._places()
        return {"live": live, "places": live + free}

    # What the replicas tell each other

    async def _keep_reporting(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(_REPORT_S)

    async def _report(self) -> None:
        live, free = await self._places()
        report = Report(
            replica=self._name,
            live=live,
            free=free,
            is_healthy=(await self._server.engine.metrics_async()).healthy,
            is_draining=self._server.is_draining,
            metrics=await asyncio.to_thread(generate_latest, self._registry),
            calls=self._server.addresses.by_network,  # last: it is sent before any later call asks
        )
        self._own_report = report
        self._board.report.remote(report)

    async def _places(self) -> tuple[int, int]:
        """Calls, and how many more would be taken."""
        live = self._server.addresses.live
        try:
            return live, (await self._server.engine.capacity_async()).free
        except EngineUnhealthy:
            return live, 0

    async def _reports(self) -> Sequence[Report]:
        """The reports of all replicas; this one's alone where the board does not answer."""
        with suppress(RayError, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                return await self._board.reports.remote()
        return [self._own_report]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._until_end.close()
