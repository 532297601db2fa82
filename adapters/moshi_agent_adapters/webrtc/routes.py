"""Endpoints for offers: a websocket for each call, and plain HTTP.

    WS     /api/webrtc/call    offer, candidates, ICE restart and hang-up, see `signalling.py`
    GET    /api/webrtc         what a page has to know: the model, ICE servers, what can be chosen
    POST   /api/webrtc         {"sdp": offer} -> 201 {"id": ..., "type": "answer", "sdp": answer}
    PATCH  /api/webrtc/{id}    {"sdp": renewed offer} -> {"id": ..., "type": "answer", "sdp": answer}
    DELETE /api/webrtc/{id}    hangs up

Errors are {"error": {"code": ..., "message": ...}}: 400 for a bad request or offer, 403 for a
page elsewhere, 404 for a call that is over, 429 for a caller with too many calls or renewed offers, 503 for a
full engine.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from moshi_agent import Engine, InputError, MoshiAgentError
from moshi_agent_adapters.origins import cors, is_of_own_page
from moshi_agent_adapters.webrtc.config import ConnectionConfig
from moshi_agent_adapters.webrtc.connections import Connections
from moshi_agent_adapters.webrtc.refusals import ForeignPage, status_of
from moshi_agent_adapters.webrtc.signalling import Signalling, options_of, sdp_of

_LONGEST_BODY = 131_072  # bytes


def webrtc_routes(
    engine: Engine,
    config: ConnectionConfig | None = None,
    *,
    connections: Connections | None = None,
    origins: tuple[str, ...] = (),
    guarded: bool = True,
) -> list[BaseRoute]:
    """Makes routes for any Starlette or FastAPI application.

    Args:
        engine: a started one, or one that the application starts before the first request.
        config: of every connection.
        connections: the calls, for whoever wants to count or end them; made here if not given.
        origins: web pages that may call, like "https://example.org", beside those of this machine and of bare
            addresses; with the name of the host itself, where it has one.
        guarded: refuses requests of other pages, and bodies that are not said to be JSON, which any page may
            send. False for an application that looks after that itself. Neither asks who calls: put
            authentication of your own before these routes where not everybody may.
    """
    # Nobody calling yet is no reason for others: calls without a call are false.
    calls = Connections(engine, config) if connections is None else connections

    async def info(_: Request) -> Response:
        return JSONResponse(calls.info())

    async def offer(request: Request) -> Response:
        body = await _json_body(request)
        address = request.client.host if request.client else ""
        call_id, answer = await calls.open(sdp_of(body), options_of(body), address)
        return JSONResponse({"id": call_id, "type": "answer", "sdp": answer}, status_code=201)

    async def renew(request: Request) -> Response:
        call_id = request.path_params["call_id"]
        answer = await calls.call(call_id).answer(sdp_of(await _json_body(request)))
        return JSONResponse({"id": call_id, "type": "answer", "sdp": answer})

    async def hang_up(request: Request) -> Response:
        await calls.call(request.path_params["call_id"]).close("the caller hung up")
        return Response(status_code=204)

    async def hold(websocket: WebSocket) -> None:
        try:
            if guarded:
                _check_page(websocket, origins)
        except ForeignPage as error:
            await websocket.send_denial_response(_refusal(error))
        else:
            await Signalling(websocket, calls).run()

    async def nothing(_: Request) -> Response:
        return Response(status_code=204)

    def route(path: str, endpoint: Endpoint, method: str) -> Route:
        answer = _with_errors(_guarded(endpoint, origins) if guarded else endpoint)
        return Route(path, answer, methods=[method], middleware=cors(origins))

    routes: list[BaseRoute] = [
        WebSocketRoute("/api/webrtc/call", hold),
        route("/api/webrtc", info, "GET"),
        route("/api/webrtc", offer, "POST"),
        route("/api/webrtc/{call_id}", renew, "PATCH"),
        route("/api/webrtc/{call_id}", hang_up, "DELETE"),
    ]
    if origins:  # browsers ask first, whether a page of another origin may
        routes += [route(path, nothing, "OPTIONS") for path in ("/api/webrtc", "/api/webrtc/{call_id}")]
    return routes


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(endpoint: Endpoint, origins: tuple[str, ...]) -> Endpoint:
    """The endpoint, for own pages and programs alone."""

    async def answer(request: Request) -> Response:
        _check_page(request, origins)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method in ("POST", "PATCH") and kind != "application/json":
            raise InputError(f"a body of the type {kind[:100]!r}; accepted: application/json")
        return await endpoint(request)

    return answer


def _check_page(request: HTTPConnection, origins: tuple[str, ...]) -> None:
    """Raises ForeignPage for a request of a page elsewhere."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not is_of_own_page(host, origin, origins, secure=request.url.scheme in ("https", "wss")):
        raise ForeignPage(
            f"a request to {host[:100]!r} from a page of {(origin or 'nobody')[:100]!r}; accepted: to "
            "and from this machine, an address, or what `webrtc_routes(origins=...)` names"
        )


def _with_errors(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with our errors as JSON."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except MoshiAgentError as error:
            return _refusal(error)

    return answer


def _refusal(error: MoshiAgentError) -> Response:
    status, code = status_of(error)
    return JSONResponse({"error": {"code": code, "message": str(error)}}, status_code=status)


async def _json_body(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise InputError(f"accepted: a body of at most {_LONGEST_BODY} bytes")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InputError('accepted: a JSON object {"sdp": ..., "options": {...}}')
    return values
