"""One call over a websocket: all of its input, output and time. What is said is up to the protocol."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from moshi_agent import (
    AudioError,
    BacklogFull,
    ConfigError,
    Ended,
    EngineFull,
    EngineUnhealthy,
    InputError,
    Session,
    SessionClosed,
)
from moshi_agent_adapters.call_log import CallLog
from moshi_agent_adapters.protocols.call_protocol import (
    CallEnd,
    CallProtocol,
    EndKind,
    HangUp,
    Hear,
    Message,
    ProtocolError,
    Say,
    Send,
    Wanted,
)
from moshi_agent_adapters.server.limits import Pace, TooMany
from moshi_agent_adapters.server.server import Server

_log = logging.getLogger("moshi_agent.server")
_CLOSE_CODES: dict[EndKind, int] = {  # RFC 6455; 1012 and 1013 are IANA's
    "left": 1000,
    "hung_up": 1000,
    "expired": 1000,
    "refused": 1013,
    "drained": 1012,
    "failed": 1011,
}
_POLICY_VIOLATION = 1008
_LONGEST_REASON = 123  # bytes, of a close frame


async def hold_call(websocket: WebSocket, protocol: CallProtocol, server: Server) -> CallEnd:
    """Accepts the websocket, holds the conversation, and says why it is over. Nothing is left behind."""
    call = _Call(websocket, protocol, server)
    await websocket.accept()
    end = await call.run()
    line, facts = call.log.ended(f"{end.kind}, {end.text}" if end.text else end.kind)
    _log.info(line, extra={**facts, "kind": end.kind})
    await call.part(end)
    return end


class _TooSlow(Exception):
    """The client does not read."""


class _Call:
    def __init__(self, websocket: WebSocket, protocol: CallProtocol, server: Server) -> None:
        self._websocket = websocket
        self._protocol = protocol
        self._server = server
        self._config = server.config
        self._pace = Pace(server.config.ahead_s)
        self._address = websocket.client.host if websocket.client else ""
        self.log = CallLog(over=protocol.name)

    async def run(self) -> CallEnd:
        """The call, from the first message to its end."""
        try:
            self._server.addresses.enter(self._address, time.monotonic())
        except TooMany as error:
            return CallEnd("refused", str(error), "too_many_calls")
        try:
            return await self._converse()
        finally:
            self._server.addresses.leave(self._address)

    async def _converse(self) -> CallEnd:
        """Turns whatever goes wrong into the end of the call."""
        try:
            config = self._server.session_config(await self._hear_wishes())
            async with self._server.engine.session(config) as session:
                self.log.session = session.key
                await self._send(self._protocol.began())
                return await self._talk(session)
        except WebSocketDisconnect as error:
            return CallEnd("left", f"close code {error.code}")
        except ProtocolError as error:
            return CallEnd("bad_message", str(error), error.code, error.client_event_id)
        except BacklogFull as error:
            # What a client may be ahead of real time is less than that: it is the engine that is behind.
            return CallEnd("failed", f"the server cannot keep up: {error}")
        except (InputError, AudioError, ConfigError) as error:
            return CallEnd("bad_message", str(error))
        except EngineFull as error:
            return CallEnd("refused", str(error), "capacity_exceeded")
        except (EngineUnhealthy, SessionClosed) as error:
            return CallEnd("failed", str(error))
        except _TooSlow:
            return CallEnd("too_slow", f"a message was not read within {self._config.send_s:g} s")
        except TimeoutError:
            return CallEnd("idle", f"no message within {self._config.idle_s:g} s")
        except Exception as error:
            _log.exception("%s failed: %s", self.log.name, error, extra=self.log.facts)
            return CallEnd("failed", "a fault of the server")

    async def _hear_wishes(self) -> Wanted:
        async with asyncio.timeout(self._config.start_s):
            while (wanted := self._protocol.wanted) is None:
                for order in self._protocol.receive(await self._receive()):
                    if isinstance(order, Send):
                        await self._send([order.message])
            return wanted

    async def _talk(self, session: Session) -> CallEnd:
        """Both directions at once, until the first of them ends."""
        both = [asyncio.create_task(self._listen(session)), asyncio.create_task(self._tell(session))]
        try:
            done, _ = await asyncio.wait(
                both, timeout=self._config.longest_call_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return CallEnd("expired", f"a call lasts {self._config.longest_call_s:g} s at most")
            return next(task for task in both if task in done).result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _listen(self, session: Session) -> CallEnd:
        while True:
            async with asyncio.timeout(self._config.idle_s):
                message = await self._receive()
            for order in self._protocol.receive(message):
                match order:
                    case Hear(pcm, sample_rate):
                        if not self._pace.admits(len(pcm) / sample_rate, time.monotonic()):
                            ahead = f"more than {self._config.ahead_s:g} s of audio ahead of real time"
                            return CallEnd("too_fast", ahead)
                        session.push(pcm, sample_rate)
                    case Send(answer):
                        await self._send([answer])
                    case Say(text):
                        await asyncio.wrap_future(session.say(text))
                    case HangUp():
                        return CallEnd("hung_up")

    async def _tell(self, session: Session) -> CallEnd:
        async for event in session:
            await self._send(self._protocol.tell(event))
            if isinstance(event, Ended):
                return _end_of(event)
        return CallEnd("failed", "the conversation is over")

    async def _receive(self) -> Message:
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1006))
        text = event.get("text")
        message: Message = text if text is not None else event["bytes"]
        if len(message) > self._config.longest_message:
            raise ProtocolError(
                f"a message of {len(message)} bytes; accepted: at most {self._config.longest_message}",
                "message_too_long",
            )
        return message

    async def _send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            try:
                async with asyncio.timeout(self._config.send_s):
                    if isinstance(message, str):
                        await self._websocket.send_text(message)
                    else:
                        await self._websocket.send_bytes(message)
            except TimeoutError:
                raise _TooSlow from None

    async def part(self, end: CallEnd) -> None:
        """The last messages, and the end of the connection."""
        with suppress(WebSocketDisconnect, RuntimeError, _TooSlow, TimeoutError):
            if end.kind not in ("left", "too_slow"):
                await self._send(self._protocol.ended(end))
            code = _CLOSE_CODES.get(end.kind, _POLICY_VIOLATION)
            reason = end.text.encode()[:_LONGEST_REASON].decode(errors="ignore")
            async with asyncio.timeout(self._config.send_s):
                await self._websocket.close(code, reason)


def _end_of(event: Ended) -> CallEnd:
    if event.reason == "error":
        return CallEnd("failed", event.error or "the conversation failed")
    if event.reason == "engine_lost":
        return CallEnd("failed", "the engine was lost")
    return CallEnd("drained", "the server is shutting down")
