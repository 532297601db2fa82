"""`/v1/live/sessions` and `/v1/realtime`: OpenAI's GPT-Live and Realtime."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from moshi_agent_adapters.protocols.gpt_live import LiveProtocol, LiveServer
from moshi_agent_adapters.protocols.realtime import RealtimeProtocol, RealtimeServer
from moshi_agent_adapters.server.call import hold_call
from moshi_agent_adapters.server.config import ServerConfig
from moshi_agent_adapters.server.server import Server


def routes(server: Server) -> Sequence[BaseRoute]:
    """The endpoints, for an application."""
    config = server.config

    async def live(websocket: WebSocket) -> None:
        session_id, expires_at = new_session(config)
        known = LiveServer(
            model=config.model_name,
            session_id=session_id,
            expires_at=expires_at,
            say_commentary=config.say_commentary,
            takes_references=server.engine.model.references is not None,
            client_asking=server.asking(by_backend=False),
            looks_up=config.look_up is not None,
            backend=server.backend,
            backend_asking=None if server.backend is None else server.asking(by_backend=True),
        )
        await hold_call(websocket, LiveProtocol(known), server)

    async def realtime(websocket: WebSocket) -> None:
        session_id, expires_at = new_session(config)
        known = RealtimeServer(
            model=config.model_name,
            session_id=session_id,
            expires_at=expires_at,
            takes_roles=server.engine.model.takes_roles,
        )
        await hold_call(websocket, RealtimeProtocol(known, websocket.query_params.get("model")), server)

    return [WebSocketRoute("/v1/live/sessions", live), WebSocketRoute("/v1/realtime", realtime)]


def new_session(config: ServerConfig) -> tuple[str, int]:
    """The id of a new session, and when it ends in Unix time."""
    return f"sess_{secrets.token_hex(12)}", int(time.time() + config.longest_call_s)
