"""Who is let in: by a token, or the cookie it was exchanged for; and from which web pages."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from moshi_agent_adapters.origins import is_let_in, place
from moshi_agent_adapters.server.config import ServerConfig, is_loopback
from moshi_agent_adapters.server.limits import Allowance
from moshi_agent_adapters.server.sign_in import (
    OPEN_PATHS,
    QUERY_NAMES,
    Cookies,
    back_with_cookie,
    cookie_of,
    is_form,
    sign_in_page,
    token_of_form,
    wants_page,
)

_log = logging.getLogger("moshi_agent.server")
_POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=()",
}
# Void on plain http from another machine, where browsers complain of it.
_SECURE_HEADERS = {"Cross-Origin-Opener-Policy": "same-origin"}
_WRONG_S = 0.5  # before the answer to a wrong token
_WARNINGS_PER_S = 0.2  # of wrong tokens


class Guard:
    """Checks every request, websockets included, before its endpoint: ASGI middleware."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config
        self._digests = [_digest(token) for token in config.tokens]
        self._cookies = Cookies(config.tokens)
        self._warnings = Allowance(_WARNINGS_PER_S, 10)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the request pass, or answers it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        send = send if scope["type"] == "websocket" else _with_headers(send, _headers(request))
        answer = await self._answer(request, receive)
        if answer is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, send)

    async def _answer(self, request: HTTPConnection, receive: Receive) -> Response | None:
        """What to answer instead of the endpoint; None lets the request pass."""
        if not self._knows_origin(request):
            return _refusal(403, "forbidden", "this server is not for pages of that origin")
        if not self._digests or request.scope["path"] in OPEN_PATHS:
            return None
        in_query = next((request.query_params[n] for n in QUERY_NAMES if n in request.query_params), None)
        if is_form(request):
            return await self._sign_in(request, await token_of_form(Request(request.scope, receive)))
        if self._opens(in_query):
            return self._with_cookie(request) if wants_page(request) else None
        bearer = _bearer(request)
        if self._opens(bearer) or self._cookies.opens(cookie_of(request), time.time()):
            return None
        if in_query is not None or bearer is not None:
            await self._note_wrong_token(request)
        if wants_page(request):
            return sign_in_page(wrong=in_query is not None)
        message = "no valid token; accepted: an Authorization header with a bearer token"
        return _refusal(401, "invalid_api_key", message, {"WWW-Authenticate": "Bearer"})

    async def _sign_in(self, request: HTTPConnection, token: str | None) -> Response:
        """What a person gets for a token: the page that was wanted, or the question again."""
        if self._opens(token):
            return self._with_cookie(request)
        await self._note_wrong_token(request)
        return sign_in_page(wrong=True)

    def _with_cookie(self, request: HTTPConnection) -> Response:
        return back_with_cookie(request, self._cookies.give(time.time()))

    async def _note_wrong_token(self, request: HTTPConnection) -> None:
        """Tells of it and takes its time: the connections of an address bound how many are tried at once."""
        address = request.client.host if request.client else ""
        if self._warnings.spend(1, time.monotonic()):
            _log.warning("a wrong token from %s", address, extra={"address": address})
        await asyncio.sleep(_WRONG_S)

    def _opens(self, token: str | None) -> bool:
        """Whether it is one of the tokens. Takes the same time for all that are not."""
        if token is None:
            return False
        digest = _digest(token)
        return any([hmac.compare_digest(digest, known) for known in self._digests])

    def _knows_origin(self, request: HTTPConnection) -> bool:
        """Whether a browser's page may do this. Programs that are no browsers name no origin.

        Without tokens the host has to be this machine's too: a page elsewhere may have its name point here.
        """
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        here, allowed = place(f"//{host}"), self._config.origins
        is_open = bool(self._digests) or self._config.no_auth
        if not is_open and here not in {place(one) for one in allowed} and not is_loopback(here[0]):
            return False
        return origin is None or is_let_in(origin, host, allowed, secure=_is_secure(request))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _bearer(request: HTTPConnection) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error in the form of OpenAI's."""
    error = {"type": "invalid_request_error", "code": code, "message": message}
    return JSONResponse({"error": error}, status, headers)


def _headers(request: HTTPConnection) -> dict[str, str]:
    """The security headers for an answer to this request."""
    host, _ = place(f"//{request.headers.get('host', '')}")
    is_alone = _is_secure(request) or is_loopback(host)
    return _HEADERS | _SECURE_HEADERS if is_alone else _HEADERS


def _is_secure(request: HTTPConnection) -> bool:
    return request.url.scheme in ("https", "wss")


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            sent = MutableHeaders(scope=message)
            for name, value in headers.items():
                sent.setdefault(name, value)
        await send(message)

    return send_with_headers
