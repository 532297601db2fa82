"""From which web pages a request may come."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def place(url: str) -> tuple[str, int | None]:
    """Host and port of a URL. Standard ports are None: behind a proxy the scheme says nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ("", None)
    return (parts.hostname or "", None if port in (80, 443) else port)


def is_of_own_page(host: str, origin: str | None, origins: tuple[str, ...] = ()) -> bool:
    """Tells whether a request comes from a program, or from a page of the host that it is sent to.

    Of the names of hosts only this machine's and those in `origins` count: the name of a page elsewhere may
    be made to point here. An address can be made to point nowhere else.

    Args:
        host: the header of that name.
        origin: likewise; None for programs, which name none.
        origins: pages that may send requests, like "https://example.org", and hosts that may be asked.
    """
    known, here = {place(one) for one in origins}, place(f"//{host}")
    if here not in known and not _is_local_or_address(here[0]):
        return False
    return origin is None or place(origin) == here or place(origin) in known


def _is_local_or_address(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
