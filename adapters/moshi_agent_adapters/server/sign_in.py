"""How a person signs in: a form brings the token in its body, and a cookie stands for it from then on."""

from __future__ import annotations

import hashlib
import hmac
from functools import cache
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

_COOKIE = "moshi_agent_token"
_COOKIE_S = 30 * 24 * 3600
_LONGEST_FORM = 4096  # bytes
_SALT = b"cookies of moshi_agent"
_FORM = "application/x-www-form-urlencoded"
# Where a token may stand in a URL, for clients that can send no header: ours, and that of Kyutai's page.
QUERY_NAMES = ("token", "worker_auth_id")
# What the page of its own is made of, and nobody's secret.
OPEN_PATHS = ("/page/style.css", "/page/icon.svg")
_WRONG = (
    '<p id="wrong" class="error" role="alert">That token was wrong. Look at it again, and try once more.</p>'
)


class Cookies:
    """Values that stand for a token that was shown: until a time, and as long as there are the same tokens.

    Every server that has those takes them: whichever replica answers, a browser stays signed in.

    Args:
        tokens: of the server.
    """

    def __init__(self, tokens: tuple[str, ...]) -> None:
        # Slow on purpose: whoever has a cookie is not to find out the token by trying many.
        self._key = hashlib.scrypt("\n".join(tokens).encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=32)

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


def wants_page(request: HTTPConnection) -> bool:
    """Whether a browser asks, for a person to look at the answer."""
    return request.scope["type"] == "http" and "text/html" in request.headers.get("accept", "")


def is_form(request: HTTPConnection) -> bool:
    """Whether it is the form of the sign-in page. Nothing else here takes forms."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return wants_page(request) and request.scope["method"] == "POST" and kind == _FORM


async def token_of_form(request: Request) -> str | None:
    """The token in the form; None where there is none, or the body is longer than any token."""
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > _LONGEST_FORM:
                return None
    except ClientDisconnect:
        return None
    fields = dict(parse_qsl(body.decode(errors="replace")))
    return fields.get("token", "").strip() or None


def sign_in_page(wrong: bool) -> Response:
    """The page that asks for the token, at the address that was wanted."""
    page = _page()
    if wrong:
        page = page.replace("<!-- error -->", _WRONG)
    # Without any referrer a browser would say of the form that it comes from nowhere ("Origin: null").
    return HTMLResponse(page, 401, {"Referrer-Policy": "same-origin"})


@cache
def _page() -> str:
    return (Path(__file__).parent / "page" / "sign-in.html").read_text(encoding="utf-8")


def cookie_of(request: HTTPConnection) -> str | None:
    """The value of our cookie, if the browser has one."""
    try:
        cookies = SimpleCookie(request.headers.get("cookie", ""))
    except CookieError:
        return None
    return cookies[_COOKIE].value if _COOKIE in cookies else None


def back_with_cookie(request: HTTPConnection, value: str) -> Response:
    """Back to the same page, with what stands for the token in a cookie and not in the address."""
    query = [pair for pair in parse_qsl(request.url.query) if pair[0] not in QUERY_NAMES]
    # The path alone, and only one slash before it: nothing here leads to another host.
    path = "/" + request.url.path.lstrip("/\\")
    response = RedirectResponse(path + ("?" + urlencode(query) if query else ""), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(_COOKIE, value, max_age=_COOKIE_S, httponly=True, samesite="strict", secure=secure)
    return response
