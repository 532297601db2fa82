"""What is said at a path where nothing is, and to a plain request for the path of a websocket."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

_LONGEST_PATH = 100  # characters, that are repeated


def with_explanations(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """Adds to routes what says where the websockets are, to those who look for them elsewhere."""
    sockets = [route for route in routes if isinstance(route, WebSocketRoute)]
    accepted = f"websockets are at {', '.join(route.path for route in sockets) or 'no path'}"

    async def no_such_path(websocket: WebSocket) -> None:
        answer = error_response(404, f"{no_path(websocket.url.path)}; {accepted}")
        await websocket.send_denial_response(answer)

    async def is_a_websocket(request: Request) -> Response:
        message = (
            f"{request.url.path} is a websocket; accepted: a client that upgrades the connection (ws://)"
        )
        return error_response(426, message, {"Upgrade": "websocket"})

    plain = [Route(route.path, is_a_websocket, methods=["GET"]) for route in sockets]
    others = [route for route in routes if route not in sockets]
    # Before the folders of files, which know no websockets.
    return [*sockets, WebSocketRoute("/{path:path}", no_such_path), *plain, *others]


def no_path(path: str) -> str:
    """Says that there is nothing at this path."""
    return f"no such path {path[:_LONGEST_PATH]!r}"


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Returns an error in the form of OpenAI's."""
    error = {"type": "invalid_request_error", "code": str(status), "message": message}
    return JSONResponse({"error": error}, status, headers)
