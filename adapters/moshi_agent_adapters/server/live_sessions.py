"""`/v1/live/sessions`: OpenAI's GPT-Live."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from moshi_agent_adapters.protocols.gpt_live import LiveProtocol, LiveServer
from moshi_agent_adapters.server.call import hold_call
from moshi_agent_adapters.server.server import Server


def routes(server: Server) -> Sequence[BaseRoute]:
    """The endpoint, for an application."""
    config = server.config

    async def sessions(websocket: WebSocket) -> None:
        known = LiveServer(
            model=config.model_name,
            session_id=f"sess_{secrets.token_hex(12)}",
            expires_at=int(time.time() + config.longest_call_s),
            say_commentary=config.say_commentary,
        )
        await hold_call(websocket, LiveProtocol(known), server)

    return [WebSocketRoute("/v1/live/sessions", sessions)]
