"""HTTP on one connection, bounded before anybody has shown a token: its number, its headers and its time.

uvicorn's own protocol on top of h11 does the work. What it leaves open is closed here: it counts no
connection, waits for ever for a request and for a client that does not read, and hands lines to `websockets`
that this neither takes nor answers.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from moshi_agent_adapters.server.config import ServerConfig
from moshi_agent_adapters.server.limits import ConnectionLimits, ConnectionPlace
from moshi_agent_adapters.server.tls import TlsProtocol
from moshi_agent_adapters.server.websocket_protocol import WebsocketProtocol

_LONGEST_LINE = 8_000  # bytes, of an upgrade: `websockets` takes 8,192 and does not answer longer ones
_MOST_HEADERS = 120  # likewise 128


def uvicorn_options(
    config: ServerConfig, *, behind_proxy: bool = False, tls: ssl.SSLContext | None = None
) -> dict[str, Any]:
    """The settings of uvicorn by which a server keeps its limits.

    Args:
        config: of the server.
        behind_proxy: all connections come from the address of a proxy, and are not counted by address.
        tls: of all connections, if they are to have it. uvicorn is to be told of none.
    """
    per_address = None if behind_proxy else config.connections_per_address
    limits = ConnectionLimits(config.most_connections, per_address)
    http = partial(HttpProtocol, limits, config)
    return {
        "http": http if tls is None else partial(TlsProtocol, tls, limits, config.request_s, http),
        "h11_max_incomplete_event_size": config.longest_head,
        "ws": "websockets-sansio",
        "ws_max_size": 4 * config.longest_message,  # beyond ours, which can say what is wrong
        "ws_ping_interval": config.ping_s,
        "ws_ping_timeout": config.ping_s,
        "ws_per_message_deflate": False,  # audio does not become smaller
    }


class HttpProtocol(H11Protocol):
    """One connection, until it ends or becomes a websocket."""

    def __init__(
        self,
        limits: ConnectionLimits,
        server: ServerConfig,
        place: ConnectionPlace | None = None,  # that it has already
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._limits, self._server, self._place = limits, server, place
        self._is_websocket = False
        self._request_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Takes the connection, or ends it at once where there are too many."""
        super().connection_made(transport)
        if self._place is None:
            self._place = self._limits.enter(self.client[0] if self.client else "", self.loop.time())
        if self._place is None:
            transport.abort()
            return
        self.ws_protocol_class = partial(WebsocketProtocol, self._place, self._server)  # pyright: ignore
        self._time_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        _cancel(self._request_timer, self._unread_timer)
        if self._place is not None:
            self._place.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._time_request()

    def _time_request(self) -> None:
        """A request has so much time from its first byte to its last, and the first one from the start."""
        is_coming = not self._is_websocket and self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not is_coming:
            _cancel(self._request_timer)
            self._request_timer = None
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(self._server.request_s, self._give_up)

    def _give_up(self) -> None:
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            self._refuse(408, f"the request has not come within {self._server.request_s:g} s")
        else:
            self.transport.abort()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hands the connection over; answers what the other side would leave without an answer."""
        if len(event.target) > _LONGEST_LINE:
            self._refuse(414, f"the address is longer than {_LONGEST_LINE} bytes")
            return
        if len(self.headers) > _MOST_HEADERS or any(len(n) + len(v) > _LONGEST_LINE for n, v in self.headers):
            self._refuse(431, f"accepted: {_MOST_HEADERS} headers of {_LONGEST_LINE} bytes each")
            return
        self._is_websocket = True
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, and closes."""
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str) -> None:
        if self.conn.our_state is not h11.IDLE and self.conn.our_state is not h11.SEND_RESPONSE:
            self.transport.abort()  # an answer is on its way already
            return
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(message.encode())}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + message).encode())
        self.transport.close()
        self._end_unless_read()

    def on_response_complete(self) -> None:
        """An answer is written; where it was the last one, it is to be read."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_unless_read()

    def pause_writing(self) -> None:
        """The client does not read: it has so much time to do so."""
        super().pause_writing()
        self._end_unless_read()

    def _end_unless_read(self) -> None:
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self._server.request_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if not self.transport.is_closing():
            _cancel(self._unread_timer)
            self._unread_timer = None


def _cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
