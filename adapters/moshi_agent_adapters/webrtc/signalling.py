"""Signalling over one websocket, which is open for as long as its call.

    caller   {"type": "offer", "sdp": ..., "options": {...}}      begins the call; later: renews it
             {"type": "offer", "sdp": ..., "id": ...}             first: renews a call that lost its websocket
             {"type": "candidate", "candidate": "candidate:..."}  one more address, found after the offer
             {"type": "hang_up"}
    server   {"type": "answer", "id": ..., "sdp": ...}
             {"type": "error", "code": ..., "message": ...}       as over HTTP; the end, where no call runs
             {"type": "ended", "reason": ...}                     the call is over
             {"type": "moved", "resume": TOKEN}                   likewise; it goes on for an offer with the
                                                                  option `resume`, if it had `moves` itself

A websocket that is closed (codes 1000 and 1001) hangs up. One that is lost does not: its caller may be on the
way from one network to another, and `silence_timeout_s` decides. The call lives in the process that the
websocket leads to, so that whatever distributes websockets over processes distributes calls.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from moshi_agent import InputError, MoshiAgentError
from moshi_agent_adapters.allowance import Allowance
from moshi_agent_adapters.webrtc.connection import MoshiConnection
from moshi_agent_adapters.webrtc.connections import Connections
from moshi_agent_adapters.webrtc.refusals import status_of

LONGEST_MESSAGE = 131_072  # bytes
_START_S = 20.0  # for the first offer to come
_MESSAGES_PER_SECOND, _MESSAGES_AT_ONCE = 10.0, 100.0
_SEND_S = 5.0  # for the caller to take one message
_NORMAL, _POLICY_VIOLATION, _TRY_AGAIN_LATER = 1000, 1008, 1013  # RFC 6455; the last is IANA's
_HUNG_UP = (1000, 1001)  # the caller closes, or leaves the page


class Signalling:
    """Holds one call over a websocket that has been let in.

    Args:
        websocket: not accepted yet.
        calls: to which it adds one.
    """

    def __init__(self, websocket: WebSocket, calls: Connections) -> None:
        self._websocket, self._calls = websocket, calls
        self._address = websocket.client.host if websocket.client else ""
        self._messages = Allowance(_MESSAGES_PER_SECOND, _MESSAGES_AT_ONCE)

    async def run(self) -> None:
        """Holds the call until either side ends it."""
        await self._websocket.accept()
        with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):  # the caller is gone
            try:
                async with asyncio.timeout(_START_S):
                    call = await self._begin(await self._receive())
            except TimeoutError:
                await self._refuse(InputError(f"no offer within {_START_S:g} s; accepted: one, at once"))
                return
            except MoshiAgentError as error:
                await self._refuse(error)
                return
            await self._hold(call)

    async def _begin(self, message: dict[str, Any]) -> MoshiConnection:
        """Answers the first offer: of a new call, or of one that has lost its websocket."""
        if message.get("type") != "offer":
            raise InputError(f"a {message.get('type')!r} first; accepted: an offer")
        if (call_id := message.get("id")) is not None:
            call = self._calls.call(str(call_id))
            answer = await call.answer(sdp_of(message))
        else:
            call_id, answer = await self._calls.open(sdp_of(message), options_of(message), self._address)
            call = self._calls.call(call_id)
        self._id = str(call_id)
        await self._answer(answer)
        return call

    async def _hold(self, call: MoshiConnection) -> None:
        """Takes what the caller says, until the call is over."""
        listening = asyncio.create_task(self._listen(call))
        closed = asyncio.create_task(call.wait_closed())
        try:
            await asyncio.wait((listening, closed), return_when=asyncio.FIRST_COMPLETED)
            if call.is_closed:
                moved = {"type": "moved", "resume": call.moved_to}
                await self._send(moved if call.moved_to else {"type": "ended", "reason": call.reason})
                await self._websocket.close(_NORMAL)
        finally:
            for task in (listening, closed):
                task.cancel()
            await asyncio.gather(listening, closed, return_exceptions=True)

    async def _listen(self, call: MoshiConnection) -> None:
        while True:
            try:
                message = await self._receive()
                if message.get("type") == "hang_up":
                    return await call.close("the caller hung up")
                await self._obey(message, call)
            except WebSocketDisconnect as error:
                if error.code in _HUNG_UP:
                    await call.close("the caller hung up")
                return
            except MoshiAgentError as error:
                await self._send(self._error(error))

    async def _obey(self, message: dict[str, Any], call: MoshiConnection) -> None:
        match message.get("type"):
            case "offer":
                await self._answer(await call.answer(sdp_of(message)))
            case "candidate":
                await call.add_candidate(str(message.get("candidate")))
            case kind:
                raise InputError(f"the type {str(kind)[:40]!r}; accepted: offer, candidate, hang_up")

    async def _receive(self) -> dict[str, Any]:
        """The next message. Raises WebSocketDisconnect at the end, InputError for none of ours."""
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1006))
        text = event.get("text") or ""
        if not self._messages.spend(1, time.monotonic()):
            await self._websocket.close(_POLICY_VIOLATION, "too many messages")
            raise WebSocketDisconnect(1006)
        if len(text) > LONGEST_MESSAGE:
            raise InputError(f"a message of {len(text)} characters; accepted: at most {LONGEST_MESSAGE}")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise InputError('no JSON object; accepted: one like {"type": "offer", "sdp": ...}')
        return message

    async def _answer(self, sdp: str) -> None:
        await self._send({"type": "answer", "id": self._id, "sdp": sdp})

    async def _refuse(self, error: MoshiAgentError) -> None:
        """The end of a call that has not begun."""
        await self._send(self._error(error))
        status, _ = status_of(error)
        code = _TRY_AGAIN_LATER if status in (429, 503) else _POLICY_VIOLATION
        await self._websocket.close(code, str(error).encode()[:123].decode(errors="ignore"))

    def _error(self, error: MoshiAgentError) -> dict[str, Any]:
        return {"type": "error", "code": status_of(error)[1], "message": str(error)}

    async def _send(self, message: dict[str, Any]) -> None:
        async with asyncio.timeout(_SEND_S):
            await self._websocket.send_text(json.dumps(message))


def sdp_of(message: dict[str, Any]) -> str:
    """Returns the offer in a message. Raises InputError."""
    sdp = message.get("sdp")
    if not isinstance(sdp, str):
        raise InputError("sdp is missing; accepted: an SDP offer as text")
    return sdp


def options_of(message: dict[str, Any]) -> dict[str, Any]:
    """Returns the options in a message. Raises InputError."""
    options = message.get("options") or {}
    if not isinstance(options, dict):
        raise InputError('accepted: options as a JSON object, such as {"seed": 1}')
    return options
