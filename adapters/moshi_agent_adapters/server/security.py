"""Who is let in: by a token, or the cookie it was exchanged for; and from which web pages."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from moshi_agent_adapters.origins import place
from moshi_agent_adapters.server.config import ServerConfig, is_loopback
from moshi_agent_adapters.server.limits import Allowance

_log = logging.getLogger("moshi_agent.server")
COOKIE = "moshi_agent_token"
# Where the token may stand in a URL: ours, and the one that Kyutai's page has a field for.
_QUERY_NAMES = ("token", "worker_auth_id")
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
_SIGN_IN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Token needed</title>
<meta name="viewport" content="width=device-width"><h1>A token is needed</h1>
<form><p><label>Token <input name="token" type="password" autocomplete="current-password" required></label>
<button>Go on</button></form></html>"""


_WRONG = _SIGN_IN.replace("<form>", "<p>That token was wrong.</p><form>")
_WRONG_S = 0.5  # before the answer to a wrong token
_WARNINGS_PER_S = 0.2  # of wrong tokens
_COOKIE_S = 30 * 24 * 3600


class Cookies:
    """Values that stand for a token that was shown: until a time, and as long as this server runs."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def give(self, now: float) -> str:
        """A new value: when it ends, and who said so."""
        until = str(int(now) + _COOKIE_S)
        return f"{until}.{self._signature(until)}"

    def opens(self, value: str | None, now: float) -> bool:
        """Whether it was given here, and its time is not over."""
        until, _, signature = (value or "").partition(".")
        is_ours = hmac.compare_digest(signature.encode(), self._signature(until).encode())
        return is_ours and int(until) > now

    def _signature(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), hashlib.sha256).hexdigest()


class Guard:
    """Checks every request, websockets included, before its endpoint: ASGI middleware."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config
        self._digests = [_digest(token) for token in config.tokens]
        self._cookies = Cookies()
        self._warnings = Allowance(_WARNINGS_PER_S, 10)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the request pass, or answers it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        answer, headers = self._answer(request), _headers(request)
        if answer is not None and answer.status_code == 401 and _shown(request):
            await self._note_wrong_token(request)
        if answer is None:
            await self._app(scope, receive, _with_headers(send, headers))
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, _with_headers(send, headers))

    def _answer(self, request: HTTPConnection) -> Response | None:
        """What to answer instead of the endpoint; None lets the request pass."""
        if not self._knows_origin(request):
            return _refusal(403, "forbidden", "this server is not for pages of that origin")
        if not self._digests:
            return None
        in_query = next((request.query_params[n] for n in _QUERY_NAMES if n in request.query_params), None)
        wants_page = request.scope["type"] == "http" and "text/html" in request.headers.get("accept", "")
        if in_query is not None and self._opens(in_query):
            return _with_cookie(request, self._cookies.give(time.time())) if wants_page else None
        if self._opens(_bearer(request)) or self._cookies.opens(_cookie(request), time.time()):
            return None
        if wants_page:
            return HTMLResponse(_SIGN_IN if in_query is None else _WRONG, 401)
        message = "no valid token; accepted: an Authorization header with a bearer token"
        return _refusal(401, "invalid_api_key", message, {"WWW-Authenticate": "Bearer"})

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
        host = request.headers.get("host", "")
        known = {place(origin) for origin in self._config.origins}
        here = place(f"//{host}")
        is_open = bool(self._digests) or self._config.no_auth
        if not is_open and here not in known and not is_loopback(here[0]):
            return False
        origin = request.headers.get("origin")
        return origin is None or place(origin) == here or place(origin) in known


def _shown(request: HTTPConnection) -> bool:
    """Whether a token was shown, in any way but the cookie, which ends by itself."""
    return _bearer(request) is not None or any(name in request.query_params for name in _QUERY_NAMES)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _bearer(request: HTTPConnection) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _cookie(request: HTTPConnection) -> str | None:
    try:
        cookies = SimpleCookie(request.headers.get("cookie", ""))
    except CookieError:
        return None
    return cookies[COOKIE].value if COOKIE in cookies else None


def _with_cookie(request: HTTPConnection, value: str) -> Response:
    """Back to the same page, with what stands for the token in a cookie and no longer in the address."""
    query = [pair for pair in parse_qsl(request.url.query) if pair[0] not in _QUERY_NAMES]
    # The path alone, and only one slash before it: nothing here leads to another host.
    path = "/" + request.url.path.lstrip("/\\")
    response = RedirectResponse(path + ("?" + urlencode(query) if query else ""), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, value, max_age=_COOKIE_S, httponly=True, samesite="strict", secure=secure)
    return response


def _refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error in the form of OpenAI's."""
    error = {"type": "invalid_request_error", "code": code, "message": message}
    return JSONResponse({"error": error}, status, headers)


def _headers(request: HTTPConnection) -> dict[str, str]:
    """The security headers for an answer to this request."""
    host, _ = place(f"//{request.headers.get('host', '')}")
    is_secure = request.url.scheme in ("https", "wss") or is_loopback(host)
    return _HEADERS | _SECURE_HEADERS if is_secure else _HEADERS


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            sent = MutableHeaders(scope=message)
            for name, value in headers.items():
                sent.setdefault(name, value)
        await send(message)

    return send_with_headers
