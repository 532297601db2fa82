"""A worker of LiveKit with one engine for all its calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from livekit.agents import AgentServer, JobContext, JobExecutorType, JobRequest

from moshi_agent import ConfigError, EngineUnhealthy, MoshiAgentError

if TYPE_CHECKING:  # torch comes with it, and importing a plugin is to be cheap
    from moshi_agent import Engine

_log = logging.getLogger("livekit.plugins.moshi")
_FULL = 0.99  # LiveKit sends no call to a worker whose load is above; with one row free it is always below

Entrypoint = Callable[[JobContext], Awaitable[None]]


class MoshiServer(AgentServer):
    """Runs the calls of a worker in threads of one process, on one engine. One worker serves one device.

    Its load is what of the engine is taken, so LiveKit sends calls where there is room. A call that finds
    none is refused before it begins, and another worker may take it.

        server = MoshiServer(lambda: Engine.load("tiny", capacity=8, process=True))

        @server.rtc_session()
        async def entrypoint(ctx: JobContext) -> None:
            session = AgentSession(llm=RealtimeModel(server.engine), **SESSION_OPTIONS)

    Args:
        load: returns the engine. It is called once, when the server runs: a script that Python imports
            again, as it does to begin the engine's process, loads nothing.
        options: of AgentServer. Calls run in threads, and their number is the engine's to limit.

    Raises:
        ConfigError: an option asks for a process for each call.
    """

    def __init__(self, load: Callable[[], Engine], **options: Any) -> None:
        if options.setdefault("job_executor_type", JobExecutorType.THREAD) is not JobExecutorType.THREAD:
            raise ConfigError(
                "job_executor_type=JobExecutorType.PROCESS would load the model once a call; "
                "accepted: JobExecutorType.THREAD, in which all calls share one engine"
            )
        options = {"load_fnc": self.current_load, "load_threshold": _FULL} | options
        super().__init__(**options)
        self._load_engine = load
        self._engine: Engine | None = None
        self._accepting = 0  # calls that are about to begin

    @property
    def engine(self) -> Engine:
        """The engine of all calls. Raises EngineUnhealthy before the server runs."""
        if self._engine is None:
            raise EngineUnhealthy("the engine is loaded when the server runs, and its calls may use it")
        return self._engine

    async def run(self, *, devmode: bool = False, unregistered: bool = False) -> None:
        """Loads the engine, serves until the server is closed, and closes the engine."""
        self._engine = await asyncio.to_thread(self._load_engine)
        try:
            await self._engine.start_async()
            # The load of one call, by which LiveKit counts those that are about to begin.
            self.update_options(num_idle_processes=self._engine.config.capacity)
            await super().run(devmode=devmode, unregistered=unregistered)
        finally:
            engine, self._engine = self._engine, None
            await engine.aclose()

    def rtc_session(self, func: Entrypoint | None = None, **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Registers what runs in a call, as AgentServer does; `on_request` is asked where there is room."""
        answer = options.pop("on_request", None) or JobRequest.accept

        async def on_request(request: JobRequest) -> None:
            await self._answer(request, answer)

        return super().rtc_session(func, on_request=on_request, **options)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]

    async def _answer(self, request: JobRequest, answer: Callable[[JobRequest], Awaitable[None]]) -> None:
        refusal = await self._refusal()
        if refusal is not None:
            _log.info("job %s refused: %s", request.id, refusal, extra={"job_id": request.id})
            await request.reject(terminate=False)
            return
        # Nothing is waited for between the look and this: two jobs cannot both take the last row.
        self._accepting += 1
        try:
            await answer(request)
        finally:
            self._accepting -= 1

    async def _refusal(self) -> str | None:
        """Why a call could not begin now."""
        try:
            capacity = await self.engine.capacity_async()
        except MoshiAgentError as error:
            return str(error)
        calls = max(capacity.live, len(self.active_jobs) + self._accepting)
        if calls < capacity.live + capacity.free:
            return None
        return capacity.refusal or f"{calls} calls are all that the engine can hold"

    def current_load(self) -> float:
        """Returns what of the engine is taken, from 0 to 1."""
        if self._engine is None:
            return 1.0
        try:
            capacity = self._engine.capacity()
        except MoshiAgentError:
            return 1.0
        return capacity.live / max(1, capacity.live + capacity.free)
