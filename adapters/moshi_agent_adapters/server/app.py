"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from moshi_agent import Engine
from moshi_agent_adapters.origins import cors
from moshi_agent_adapters.server import health, kyutai_chat, openai_calls, transcriptions, web_calls
from moshi_agent_adapters.server.config import ServerConfig
from moshi_agent_adapters.server.paths import error_response, no_path, with_explanations
from moshi_agent_adapters.server.security import Guard
from moshi_agent_adapters.server.server import Server

RouteGroup = Callable[[Server], Sequence[BaseRoute]]

GROUPS: tuple[RouteGroup, ...] = (health.routes, kyutai_chat.routes, openai_calls.routes, web_calls.routes)
RECOGNISER_GROUPS: tuple[RouteGroup, ...] = (health.routes, transcriptions.routes)


def groups_for(engine: Engine) -> tuple[RouteGroup, ...]:
    """Returns what a server with this engine speaks."""
    return RECOGNISER_GROUPS if engine.model.kind == "recogniser" else GROUPS


def create_app(
    engine: Engine, config: ServerConfig | None = None, groups: Sequence[RouteGroup] | None = None
) -> Starlette:
    """Makes an application that serves one engine, which it starts and closes.

    Args:
        engine: as `Engine.load` gives it.
        config: of the server; where it listens is up to who runs the application.
        groups: what it speaks. Each takes the `Server` and gives its routes. None: `GROUPS`, or
            `RECOGNISER_GROUPS` where the engine is a recogniser alone.

    Its `state.server` is the `Server`, whose `drain` ends it gently.
    """
    server = Server(engine, config or ServerConfig())
    if groups is None:
        groups = groups_for(engine)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with engine:
            lag = asyncio.create_task(server.loop_lag.measure())
            yield
            lag.cancel()
            for end_calls in server.at_shutdown:
                await end_calls()

    app = Starlette(
        routes=with_explanations([route for group in groups for route in group(server)]),
        middleware=[*cors(server.config.origins), Middleware(Guard, config=server.config)],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.state.server = server
    return app


def _http_error(request: Request, error: Exception) -> Response:
    """An error in the form of OpenAI's."""
    assert isinstance(error, HTTPException)
    message = no_path(request.url.path) if error.status_code == 404 else error.detail
    return error_response(error.status_code, message, dict(error.headers or {}))
