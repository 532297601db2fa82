"""HTTP endpoints for offers, and the calls that were begun through them.

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
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moshi_agent import (
    ConfigError,
    Engine,
    EngineFull,
    EngineUnhealthy,
    InputError,
    MoshiAgentError,
    SessionClosed,
    SessionConfig,
)
from moshi_agent.plural import counted
from moshi_agent_adapters.networks import network_of
from moshi_agent_adapters.origins import cors, is_of_own_page
from moshi_agent_adapters.personas import choose_persona
from moshi_agent_adapters.webrtc.config import ConnectionConfig
from moshi_agent_adapters.webrtc.connection import MoshiConnection, TooManyCalls, TooManyOffers
from moshi_agent_adapters.webrtc.offer import OfferError

_LONGEST_BODY = 131_072  # bytes
_OPTIONS = {"greet": bool, "seed": int, "role": str, "voice": str}


class ForeignPage(MoshiAgentError):
    """A web page elsewhere, or a name that was made to point here."""


class Connections:
    """Holds the calls of one engine, by an id that cannot be guessed.

    A subclass may say in `info` and `session_config` what callers can choose, and in `open` and `admit` whom
    it lets in.
    """

    def __init__(self, engine: Engine, config: ConnectionConfig | None = None) -> None:
        self.engine = engine
        self.config = config or ConnectionConfig()
        self._calls: dict[str, MoshiConnection] = {}

    def __len__(self) -> int:
        self._forget_closed()
        return len(self._calls)

    def info(self) -> dict[str, Any]:
        """Returns what a page has to know before it calls."""
        model = self.engine.model
        return {
            "model": self.engine.config.source,
            "ice_servers": [server.to_json() for server in self.config.ice_servers],
            "options": {"greet": not model.takes_roles, "role": model.takes_roles, "voices": [*model.voices]},
        }

    async def session_config(self, options: dict[str, Any]) -> SessionConfig:
        """Sets up a session by the options in an offer. Raises InputError for unknown ones."""
        for name, value in options.items():
            accepted = _OPTIONS.get(name)
            if accepted is None or type(value) is not accepted:
                raise InputError(
                    f"option {name!r}; accepted: greet (true or false), seed (a whole number), "
                    "role and voice (text)"
                )
        chosen = choose_persona(self.engine.model, options.get("role"), options.get("voice"))
        if chosen.left_out is not None:
            raise InputError(chosen.left_out)
        config = SessionConfig(seed=options.get("seed"), greet=options.get("greet", False))
        return replace(config, role=chosen.role, voice=chosen.voice)

    async def open(self, offer_sdp: str, options: dict[str, Any], address: str = "") -> tuple[str, str]:
        """Begins a call; its id and the SDP answer.

        Args:
            offer_sdp: of the caller.
            options: as `session_config` takes them.
            address: from where the offer came.

        Raises:
            TooManyCalls, InputError: and as `MoshiConnection.answer`.
        """
        session = await self.session_config(options)
        self._forget_closed()
        await self._check_connecting(address)
        admit = partial(self.admit, address)
        call = MoshiConnection(self.engine, session, self.config, address=address, admit=admit)
        call_id = secrets.token_urlsafe(16)
        self._calls[call_id] = call
        return call_id, await call.answer(offer_sdp)

    def admit(self, address: str) -> None:
        """Lets a caller in that is connected now. A subclass may raise TooManyCalls."""

    def call(self, call_id: str) -> MoshiConnection:
        """Returns a running call. Raises SessionClosed where there is none."""
        self._forget_closed()
        if call_id not in self._calls:
            raise SessionClosed("there is no such call, or it is over")
        return self._calls[call_id]

    async def close_all(self) -> None:
        """Hangs up on everybody: the application ends."""
        for call in list(self._calls.values()):
            await call.close("the application ends")

    async def _check_connecting(self, address: str) -> None:
        """Those on the way in hold no row yet: they count for their own address, and keep nobody else out."""
        free = (await self.engine.capacity_async()).free if self._connecting(address) else 0
        connecting = self._connecting(address)  # others may have come meanwhile
        if connecting >= self.config.connecting_per_address:
            raise TooManyCalls(f"{counted(connecting, 'call')} of one address on the way in already")
        if connecting and connecting >= free:
            raise EngineFull(f"no row is free: {counted(connecting, 'call')} on the way in")

    def _connecting(self, address: str) -> int:
        network = network_of(address)
        return sum(
            call.session is None and network_of(call.address) == network for call in self._calls.values()
        )

    def _forget_closed(self) -> None:
        self._calls = {call_id: call for call_id, call in self._calls.items() if not call.is_closed}


def webrtc_routes(
    engine: Engine,
    config: ConnectionConfig | None = None,
    *,
    connections: Connections | None = None,
    origins: tuple[str, ...] = (),
    guarded: bool = True,
) -> list[Route]:
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
        call_id, answer = await calls.open(_sdp(body), body.get("options") or {}, address)
        return JSONResponse({"id": call_id, "type": "answer", "sdp": answer}, status_code=201)

    async def renew(request: Request) -> Response:
        call_id = request.path_params["call_id"]
        answer = await calls.call(call_id).answer(_sdp(await _json_body(request)))
        return JSONResponse({"id": call_id, "type": "answer", "sdp": answer})

    async def hang_up(request: Request) -> Response:
        await calls.call(request.path_params["call_id"]).close("the caller hung up")
        return Response(status_code=204)

    async def nothing(_: Request) -> Response:
        return Response(status_code=204)

    def route(path: str, endpoint: Endpoint, method: str) -> Route:
        answer = _with_errors(_guarded(endpoint, origins) if guarded else endpoint)
        return Route(path, answer, methods=[method], middleware=cors(origins))

    routes = [
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
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        secure = request.url.scheme == "https"
        if not is_of_own_page(host, origin, origins, secure=secure):
            raise ForeignPage(
                f"a request to {host[:100]!r} from a page of {(origin or 'nobody')[:100]!r}; accepted: to "
                "and from this machine, an address, or what `webrtc_routes(origins=...)` names"
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method in ("POST", "PATCH") and kind != "application/json":
            raise InputError(f"a body of the type {kind[:100]!r}; accepted: application/json")
        return await endpoint(request)

    return answer


def _with_errors(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with our errors as JSON."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except MoshiAgentError as error:
            status, code = _status(error)
            return JSONResponse({"error": {"code": code, "message": str(error)}}, status_code=status)

    return answer


def _status(error: MoshiAgentError) -> tuple[int, str]:
    match error:
        case EngineFull():
            return 503, "engine_full"
        case EngineUnhealthy():
            return 503, "engine_unhealthy"
        case SessionClosed():
            return 404, "no_such_call"
        case ForeignPage():
            return 403, "forbidden"
        case TooManyCalls():
            return 429, "too_many_calls"
        case TooManyOffers():
            return 429, "too_many_offers"
        case OfferError():
            return 400, "bad_offer"
        case InputError() | ConfigError():
            return 400, "bad_request"
        case _:
            return 500, "fault"


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
    if not isinstance(values, dict) or not isinstance(values.get("options") or {}, dict):
        raise InputError('accepted: a JSON object {"sdp": ..., "options": {...}}')
    return values


def _sdp(body: dict[str, Any]) -> str:
    sdp = body.get("sdp")
    if not isinstance(sdp, str):
        raise InputError("sdp is missing; accepted: an SDP offer as text")
    return sdp
