"""A websocket below its messages: frames are metered, nothing is read ahead, and it ends when it is over.

uvicorn's own protocol does the work. What it leaves open is closed here: it takes any number of pings and
empty parts of messages, parses all that has come before anybody reads it, and waits for ever for a client
that does not take what was sent to it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from moshi_agent_adapters.allowance import Allowance
from moshi_agent_adapters.server.config import ServerConfig
from moshi_agent_adapters.server.limits import ConnectionPlace

_PIECE = 4096  # bytes that are parsed at once: some hundred frames at most
_FRAMES_AT_ONCE_S = 5.0  # of frames, that may come together
_WALK_S = 0.05  # from one such piece to the next, once the call is over
_CLOSE_S = 5.0  # for the client to answer the close frame
_POLICY_VIOLATION = 1008


class WebsocketProtocol(WebSocketsSansIOProtocol):
    """One connection from its upgrade on. Gives back the place that it had as an HTTP connection."""

    def __init__(self, place: ConnectionPlace, server: ServerConfig, **options: Any) -> None:
        super().__init__(**options)
        self._place, self._send_s = place, server.send_s
        self._most_frames = server.frames_per_second
        self._frames = Allowance(self._most_frames, _FRAMES_AT_ONCE_S * self._most_frames)
        self._unparsed = bytearray()
        self._is_thrown_out = False  # by the meter
        self._unread_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self.close_timeout = _CLOSE_S

    # In

    def data_received(self, data: bytes) -> None:
        """Takes bytes, and parses them no faster than the application takes messages."""
        self._unparsed += data
        self._parse()

    def _parse(self) -> None:
        while self._unparsed and not self.read_paused and not self.transport.is_closing():
            piece = bytes(self._unparsed[:_PIECE])
            del self._unparsed[:_PIECE]
            super().data_received(piece)
            if self.close_sent and self._unparsed:
                self._walk()

    def _walk(self) -> None:
        """Leaves the rest of what comes after the end for later: a flood of it would take the loop."""
        self.read_paused = True
        self.transport.pause_reading()
        self.loop.call_later(_WALK_S, self._walk_on)

    def _walk_on(self) -> None:
        if self.transport.is_closing():
            return
        self.read_paused = False
        self._parse()
        if not self.read_paused:
            self.transport.resume_reading()

    async def receive(self) -> Any:
        """The next message, for the application."""
        message = await super().receive()
        self._parse()
        return message

    def handle_ping(self) -> None:
        """Answers a ping, within bounds."""
        if self._meter():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Notes a pong, within bounds."""
        if self._meter():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """Takes a part of a message, within bounds."""
        if self._meter():
            super().handle_cont(event)

    def _meter(self) -> bool:
        if self._frames.spend(1, self.loop.time()):
            return True
        if not self.close_sent and not self.transport.is_closing():
            reason = f"more than {self._most_frames:g} pings, pongs and parts of messages a second"
            self.queue.put_nowait(
                {"type": "websocket.disconnect", "code": _POLICY_VIOLATION, "reason": reason}
            )
            self.conn.fail(_POLICY_VIOLATION, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self._is_thrown_out = True
        self.transport.close()
        self._end_soon()
        return False

    # Out

    async def send(self, message: Any) -> None:
        """What the application says."""
        if self._is_thrown_out:
            raise ClientDisconnected  # as if the client had gone, which the application expects at any time
        await super().send(message)
        if message["type"] == "websocket.accept":
            self._place.prove()
        elif message["type"] == "websocket.close":
            self._parse()

    def pause_writing(self) -> None:
        """The client does not read: it has so much time to do so."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(2 * self._send_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    # The end

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The application is done with the connection: it ends soon, whatever the client does."""
        super().on_task_complete(task)
        self._end_soon()

    def keepalive_timeout(self) -> None:
        """The client does not answer pings."""
        super().keepalive_timeout()
        self._end_soon()

    def _end_soon(self) -> None:
        if self._end_timer is None and not self.disconnected:
            self._end_timer = self.loop.call_later(_CLOSE_S + self._send_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        for timer in (self._unread_timer, self._end_timer):
            if timer is not None:
                timer.cancel()
        self._place.leave()
        super().connection_lost(exc)
