"""One call over a websocket: all of its input, output and time. What is said is up to the protocol."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from starlette.types import Message as ASGIMessage
from starlette.websockets import WebSocket, WebSocketDisconnect

from moshi_agent import (
    AudioError,
    BacklogFull,
    ConfigError,
    Ended,
    EngineFull,
    EngineUnhealthy,
    InputError,
    ReferenceWanted,
    Session,
    SessionClosed,
)
from moshi_agent.engine.reference_desk import OnReference
from moshi_agent_adapters.allowance import Allowance
from moshi_agent_adapters.call_log import CallLog
from moshi_agent_adapters.protocols.call_protocol import (
    Ask,
    CallEnd,
    CallProtocol,
    EndKind,
    HangUp,
    Hear,
    Hold,
    Message,
    ProtocolError,
    Refer,
    Say,
    Send,
    Wanted,
)
from moshi_agent_adapters.server.idle_calls import IdleCall
from moshi_agent_adapters.server.limits import Pace, TooMany
from moshi_agent_adapters.server.server import Server

_log = logging.getLogger("moshi_agent.server")
_CLOSE_CODES: dict[EndKind, int] = {  # RFC 6455; 1012 and 1013 are IANA's
    "left": 1000,
    "hung_up": 1000,
    "expired": 1000,
    "refused": 1013,
    "drained": 1012,
    "moved": 1012,
    "failed": 1011,
}
_POLICY_VIOLATION = 1008
_LONGEST_REASON = 123  # bytes, of a close frame
_MESSAGES_A_TURN = 16  # that one call may have read before others have theirs
_AUDIO_A_TURN_S = 0.5  # the same of audio in one message
_LEAST_AUDIO_S = 0.002  # in a message; browsers give 128 samples at once, 2.7 ms
_MESSAGES_AT_ONCE_S = 10.0  # of messages without audio, that may come together
_ASKS_PER_SECOND, _ASKS_AT_ONCE = 1.0, 5.0  # for answers of a language model, which may cost money
_MOST_EARLY_BYTES = 1024 * 1024  # kept while the engine begins a conversation; the rest waits in the socket
_EVENT_BYTES = 256  # that a message takes beside what is in it
_MESSAGE_BYTES = 16 * 1024  # of a message without audio, that count as one more of them


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
        messages = server.config.messages_per_second
        self._silent_messages = Allowance(messages, _MESSAGES_AT_ONCE_S * messages)
        self._asks = Allowance(_ASKS_PER_SECOND, _ASKS_AT_ONCE)
        self._early = deque[ASGIMessage]()  # what came before the conversation had begun
        self._has_moved = False  # what comes here may be too late for the conversation
        self._address = websocket.client.host if websocket.client else ""
        self.log = CallLog(over=protocol.name)

    async def run(self) -> CallEnd:
        """The call, from the first message to its end."""
        try:
            await self._server.addresses.enter(self._address, time.monotonic())
        except TooMany as error:
            return CallEnd("refused", str(error), "too_many_calls")
        try:
            return await self._converse()
        finally:
            self._server.addresses.leave(self._address)

    async def _converse(self) -> CallEnd:
        """Turns whatever goes wrong into the end of the call."""
        try:
            await self._send(self._protocol.connected())
            wanted = await self._hear_wishes()
            left_out = self._server.left_out(wanted)
            session = await self._open(wanted)
            self.log.session = session.key
            try:
                await self._send(self._protocol.began())
                if left_out is not None:
                    await self._send(self._protocol.left_out(left_out))
                return await self._talk(session, wanted.can_move)
            finally:
                session.close()
        except WebSocketDisconnect as error:
            return CallEnd("left", f"close code {error.code}")
        except ProtocolError as error:
            return CallEnd("bad_message", str(error), error.code, error.client_event_id)
        except (InputError, AudioError, ConfigError) as error:
            return CallEnd("bad_message", str(error))
        except EngineFull as error:
            return CallEnd("refused", str(error), "capacity_exceeded")
        except (EngineUnhealthy, SessionClosed) as error:
            return CallEnd("failed", str(error))
        except _TooSlow:
            return CallEnd("too_slow", f"a message was not read within {self._config.send_s:g} s")
        except Exception as error:
            _log.exception("%s failed: %s", self.log.name, error, extra=self.log.facts)
            return CallEnd("failed", "a fault of the server")

    async def _open(self, wanted: Wanted) -> Session:
        """Begins the conversation, unless the client leaves before it has begun."""
        opening = asyncio.create_task(self._begin(wanted))
        hearing = asyncio.create_task(self._hear_early())
        try:
            await asyncio.wait([opening, hearing], return_when=asyncio.FIRST_COMPLETED)
            hearing.cancel()
            await asyncio.wait([hearing])
            if not hearing.cancelled():
                hearing.result()
            return await opening
        except BaseException:
            opening.cancel()
            (session,) = await asyncio.gather(opening, return_exceptions=True)
            if isinstance(session, Session):
                session.close()
            raise
        finally:
            hearing.cancel()

    async def _hear_early(self) -> None:
        """Keeps what comes meanwhile. Raises WebSocketDisconnect when the client has left."""
        size = 0
        while size < _MOST_EARLY_BYTES:
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(event.get("code", 1006))
            self._early.append(event)
            size += _EVENT_BYTES + len(event.get("text") or event.get("bytes") or b"")

    async def _begin(self, wanted: Wanted) -> Session:
        """Begins the conversation, or goes on with one that has come from another process."""
        config, on_reference = self._server.session_config(wanted), self._look_up(wanted)
        if wanted.resume is None:
            return await self._server.open(config, on_reference)
        snapshot = await self._server.take_over(wanted.resume)
        if snapshot is None:
            raise ProtocolError("there is no call to go on with for this token", "no_such_call")
        try:
            return await self._server.open(config, on_reference, snapshot)
        except (EngineFull, EngineUnhealthy):
            if self._server.handover is not None:
                await self._server.handover.give_back(wanted.resume, snapshot)
            raise

    def _look_up(self, call: Wanted) -> OnReference | None:
        """What looks something up in a call: its protocol, its client (None), or else the server."""
        lookup = call.lookup
        if lookup is None:
            return self._server.look_up if call.asking is None else None

        async def answer(wanted: ReferenceWanted) -> str | None:
            return await lookup(wanted, self._send)

        return answer

    async def _hear_wishes(self) -> Wanted:
        try:
            async with asyncio.timeout(self._config.start_s):
                return await self._wishes()
        except TimeoutError as error:
            message = f"the start of the call has not come within {self._config.start_s:g} s"
            raise ProtocolError(message, "no_start") from error

    async def _wishes(self) -> Wanted:
        """Takes messages until the client has said what it wants; what comes too early is refused."""
        while (wanted := self._protocol.wanted) is None:
            size = 0
            try:
                message = await self._receive()
                size = len(message)
                for order in self._protocol.receive(message):
                    if isinstance(order, Send):
                        await self._send([order.message])
            except ProtocolError as error:
                cost = 1 + size / _MESSAGE_BYTES
                if error.is_fatal or not self._silent_messages.spend(cost, time.monotonic()):
                    raise
                await self._send(self._protocol.refused(error))
        return wanted

    async def _talk(self, session: Session, can_move: bool) -> CallEnd:
        """Both directions at once, until the first of them ends."""
        presence = self._server.idle_calls.enter(self._address, time.monotonic())
        works = [self._listen(session, presence), self._tell(session), self._make_room(presence)]
        if can_move:
            works.append(self._move(session))
        tasks = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=self._config.longest_call_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return CallEnd("expired", f"a call lasts {self._config.longest_call_s:g} s at most")
            return next(task for task in tasks if task in done).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            session.close()
            self._server.idle_calls.leave(presence)

    async def _make_room(self, presence: IdleCall) -> CallEnd:
        await presence.given_up.wait()
        return CallEnd("idle", f"others wait, and nothing was said for {self._config.idle_s:g} s")

    async def _move(self, session: Session) -> CallEnd:
        await self._server.is_moving.wait()
        self._has_moved = True
        return CallEnd("moved", code=await self._server.hand_over(session))

    async def _listen(self, session: Session, presence: IdleCall) -> CallEnd:
        """Takes the client's messages, one after the other. Work with hardly any audio is metered, too."""
        for number in itertools.count(1):
            now, heard_s, end, size = time.monotonic(), 0.0, None, 0
            try:
                message = await self._receive()
                now, size = time.monotonic(), len(message)
                heard_s, end = await self._obey(message, session, now)
            except ProtocolError as error:
                if error.is_fatal:
                    raise
                await self._send(self._protocol.refused(error))
            if end is not None:
                return end
            if heard_s:
                presence.heard_at = now
            if heard_s < _LEAST_AUDIO_S and not self._silent_messages.spend(1 + size / _MESSAGE_BYTES, now):
                most = f"{self._config.messages_per_second:g} messages a second without audio"
                return CallEnd("too_fast", f"more than {most} or with hardly any", "too_many_messages")
            if not number % _MESSAGES_A_TURN:
                await asyncio.sleep(0)  # what has come already is read without giving way to anybody
        raise AssertionError("a count has no end")

    async def _obey(self, message: Message, session: Session, now: float) -> tuple[float, CallEnd | None]:
        """Does what a message asks for. Returns seconds of audio in it, and the end if it ends the call."""
        heard_s, turn_s = 0.0, _AUDIO_A_TURN_S
        for order in self._protocol.receive(message):
            match order:
                case Hear(pcm, sample_rate):
                    heard_s += len(pcm) / sample_rate
                    if not self._pace.admits(len(pcm) / sample_rate, now):
                        ahead = f"more than {self._config.ahead_s:g} s of audio ahead of real time"
                        return heard_s, CallEnd("too_fast", ahead)
                    self._hear(session, pcm, sample_rate)
                    if heard_s > turn_s:
                        turn_s = heard_s + _AUDIO_A_TURN_S
                        await asyncio.sleep(0)
                case Send(answer):
                    await self._send([answer])
                case HangUp():
                    return heard_s, CallEnd("hung_up")
                case _:
                    await self._guide(order, session)
        return heard_s, None

    async def _guide(self, order: Say | Refer | Ask | Hold, session: Session) -> None:
        """Has the bot say something, or nothing. Raises ProtocolError for what it cannot say."""
        match order:
            case Say(text, client_event_id, alone):
                try:
                    await asyncio.wrap_future(session.say(text, at_once=alone, alone=alone))
                except InputError as error:
                    raise ProtocolError(str(error), "cannot_be_said", client_event_id) from error
            case Refer(text, for_id, as_sentence, client_event_id):
                try:
                    referral = await asyncio.wrap_future(session.refer(text, for_id, as_sentence))
                except InputError as error:
                    raise ProtocolError(str(error), "invalid_value", client_event_id) from error
                await self._send(order.on_outcome(referral))
            case Ask() if not self._asks.spend(1, time.monotonic()):
                message = f"accepted: {_ASKS_PER_SECOND:g} request a second for an answer"
                raise ProtocolError(message, "too_many_requests")
            case Ask():
                await asyncio.wrap_future(session.ask())
            case Hold(seconds):
                await asyncio.wrap_future(session.hold(seconds))

    def _hear(self, session: Session, pcm: NDArray[np.int16], sample_rate: int) -> None:
        try:
            session.push(pcm, sample_rate)
        except BacklogFull:
            pass  # the engine stands still, and does not even leave out what is too late
        except SessionClosed:
            if not self._has_moved:
                raise
        except AudioError as error:
            raise ProtocolError(str(error), "invalid_audio") from error

    async def _tell(self, session: Session) -> CallEnd:
        async for event in session:
            if isinstance(event, Ended) and event.reason == "moved":
                await asyncio.Event().wait()  # where to is told when it is kept there
            await self._send(self._protocol.tell(event))
            if isinstance(event, Ended):
                return _end_of(event)
        return CallEnd("failed", "the conversation is over")

    async def _receive(self) -> Message:
        event = self._early.popleft() if self._early else await self._websocket.receive()
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
