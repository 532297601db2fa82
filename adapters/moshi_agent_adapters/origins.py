"""From which web pages a request may come."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

_STANDARD_PORTS = {"http": 80, "https": 443}
_KEPT_S = 600  # what a browser was told of a path


def place(url: str) -> tuple[str, int | None]:
    """Host and port of a URL. Standard ports are None: behind a proxy the scheme says nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ("", None)
    return (parts.hostname or "", None if port in _STANDARD_PORTS.values() else port)


def as_sent(origin: str) -> str | None:
    """Writes an origin as browsers send it, without a standard port; None for what is no origin of a page."""
    try:
        parts = urlsplit(origin)
        port, host = parts.port, (parts.hostname or "").encode("idna").decode()
    except ValueError:  # a UnicodeError is one
        return None
    if parts.scheme not in _STANDARD_PORTS or not host or parts.path or parts.query or parts.fragment:
        return None
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + ("" if port in (None, _STANDARD_PORTS[parts.scheme]) else f":{port}")


def is_let_in(origin: str, host: str, allowed: Collection[str], *, secure: bool) -> bool:
    """Tells whether a page of this origin may send a request.

    Args:
        origin: the header of that name.
        host: likewise. A page of the same host and port may, whatever the scheme: a proxy may change it.
        allowed: other origins. Here the scheme counts.
        secure: the request came over TLS, as then its own page did.
    """
    sent = as_sent(origin)
    if sent is None:
        return False
    if sent in {as_sent(one) for one in allowed}:
        return True
    return place(sent) == place(f"//{host}") and (sent.startswith("https:") or not secure)


def is_of_own_page(
    host: str, origin: str | None, origins: tuple[str, ...] = (), *, secure: bool = False
) -> bool:
    """Tells whether a request comes from a program, or from a page of the host that it is sent to.

    Of the names of hosts only this machine's and those in `origins` count: the name of a page elsewhere may
    be made to point here. An address can be made to point nowhere else.

    Args:
        host: the header of that name.
        origin: likewise; None for programs, which name none.
        origins: pages that may send requests, like "https://example.org", and hosts that may be asked.
        secure: the request came over TLS.
    """
    here = place(f"//{host}")
    if here not in {place(one) for one in origins} and not _is_local_or_address(here[0]):
        return False
    return origin is None or is_let_in(origin, host, origins, secure=secure)


def cors(origins: Collection[str]) -> list[Middleware]:
    """Makes the middleware that tells browsers which pages may read answers: none where no page is allowed.

    A page elsewhere brings a token in a header. Cookies stay with the server's own page.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=[sent for one in origins if (sent := as_sent(one)) is not None],
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            max_age=_KEPT_S,
        )
    ]


def _is_local_or_address(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
