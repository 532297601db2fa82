"""Sockets to listen on, bound before anything is loaded: whether they can be had shows at once."""

from __future__ import annotations

import socket

from moshi_agent.errors import ConfigError


def listen(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of the host, all on the same port. Port 0 takes a free one.

    Raises:
        ConfigError: there is no such host, or the port is taken.
    """
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in _addresses(host, port):
            if sockets and port == 0:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            one = socket.create_server(address, family=family, backlog=256)
            one.setblocking(False)
            sockets.append(one)
    except OSError as error:
        for one in sockets:
            one.close()
        raise ConfigError(f"cannot listen on port {port} of {host}: {error.strerror or error}") from error
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    # An IPv6 address may be written as in a URL, in brackets.
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A machine without IPv6 still has a name for its address in it.
    usable = [entry for entry in found if entry[0] == socket.AF_INET or _has_ipv6()]
    return list(dict.fromkeys(usable))  # pyright: ignore[reportReturnType]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
