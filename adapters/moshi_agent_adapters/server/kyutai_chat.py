"""`/api/chat`: Kyutai's protocol."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from moshi_agent_adapters.protocols.kyutai import KyutaiProtocol
from moshi_agent_adapters.server.call import hold_call
from moshi_agent_adapters.server.server import Server


def routes(server: Server) -> Sequence[BaseRoute]:
    """The endpoint, for an application."""

    async def chat(websocket: WebSocket) -> None:
        await hold_call(websocket, KyutaiProtocol(websocket.query_params), server)

    return [WebSocketRoute("/api/chat", chat)]
