"""TLS on one connection: its handshake is counted and timed like a request of somebody unknown.

An event loop tells a protocol of a connection when the handshake is over. Until then nobody would count it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from uvicorn.protocols.utils import get_remote_addr

from moshi_agent_adapters.server.limits import ConnectionLimits, ConnectionPlace


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The server's side of TLS, with the settings that Python advises. Raises OSError, as TLS's own are."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


class TlsProtocol(asyncio.Protocol):
    """One connection until its handshake is over; then another protocol has it, and its place.

    Args:
        context: of TLS.
        limits: of connections.
        handshake_s: for the handshake.
        make_http: makes the protocol that comes after it. Takes the place, and uvicorn's options.
        options: uvicorn's.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        limits: ConnectionLimits,
        handshake_s: float,
        make_http: Callable[..., asyncio.Protocol],
        **options: Any,
    ) -> None:
        self._context, self._limits, self._handshake_s = context, limits, handshake_s
        self._make_http = partial(make_http, **options)
        self._connections: set[Any] = options["server_state"].connections
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Takes the connection, or ends it at once where there are too many."""
        loop, client = asyncio.get_running_loop(), get_remote_addr(transport)
        place = self._limits.enter(client[0] if client else "", loop.time())
        if place is not None:
            # With a transport and a protocol of its own: uvloop reads on from this one, whoever pauses it.
            connection = transport.get_extra_info("socket").dup()
            self._connections.add(self)
            self._task = loop.create_task(self._shake_hands(connection, place))
        transport.abort()

    async def _shake_hands(self, connection: socket.socket, place: ConnectionPlace) -> None:
        is_done = False
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                partial(self._make_http, place),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_s,
            )
            is_done = True
        except OSError:
            pass  # of TLS, of the network or of time: nobody is there to be told
        finally:
            self._connections.discard(self)
            if not is_done:
                place.leave()

    def shutdown(self) -> None:
        """Ends with the server, which asks all its connections."""
        if self._task is not None:
            self._task.cancel()
