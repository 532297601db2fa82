"""The data channel: events to the caller as JSON, a few wishes of the caller back."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import Any

from aiortc import RTCDataChannel
from aiortc.exceptions import InvalidStateError

from moshi_agent import MoshiAgentError, Session

_MOST_WAITING = 1000  # messages, before the channel is open
_MOST_BUFFERED_BYTES = 1 << 20  # of a caller who does not read
_LONGEST_MESSAGE = 16_384  # characters, from the caller
_WISHES = "say, ping"


class EventChannel:
    """Sends JSON over the channel that the caller opens, as soon as it is open.

    The caller may send
        {"type": "say", "text": "..."}      the bot is to speak these words
        {"type": "ping", "id": anything}    answered with {"type": "pong", "id": the same}
    and gets {"type": "error", "message": "..."} for anything else.
    """

    def __init__(self) -> None:
        self.dropped_messages = 0
        self._channel: RTCDataChannel | None = None
        self._waiting: deque[str] = deque()
        self._session: Session | None = None

    def attach(self, channel: RTCDataChannel) -> None:
        """Uses this channel from now on. What waited is sent."""
        self._channel = channel
        channel.on("message", self._on_message)
        while self._waiting:
            self._send_text(channel, self._waiting.popleft())

    def serve(self, session: Session) -> None:
        """What the caller wishes is for this conversation."""
        self._session = session

    def send(self, message: str) -> None:
        """Sends a line of JSON, or keeps it until there is a channel."""
        if self._channel is not None:
            self._send_text(self._channel, message)
            return
        self._waiting.append(message)
        if len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()
            self.dropped_messages += 1

    def send_error(self, message: str, code: str = "bad_request") -> None:
        """Says what is wrong."""
        self.send(_dump({"type": "error", "code": code, "message": message}))

    def _send_text(self, channel: RTCDataChannel, message: str) -> None:
        if channel.readyState != "open" or channel.bufferedAmount > _MOST_BUFFERED_BYTES:
            self.dropped_messages += 1
            return
        with suppress(InvalidStateError, ConnectionError):
            channel.send(message)

    def _on_message(self, message: str | bytes) -> None:
        if not isinstance(message, str) or len(message) > _LONGEST_MESSAGE:
            self.send_error(f"accepted: text of at most {_LONGEST_MESSAGE} characters")
            return
        try:
            wish = json.loads(message)
        except (ValueError, RecursionError):
            wish = None
        if not isinstance(wish, dict):
            self.send_error("accepted: a JSON object")
            return
        self._obey(wish)

    def _obey(self, wish: dict[str, Any]) -> None:
        match wish:
            case {"type": "ping"}:
                self.send(_dump({"type": "pong", "id": wish.get("id")}))
            case {"type": "say", "text": str(text)} if self._session is not None:
                said = asyncio.wrap_future(self._session.say(text))
                said.add_done_callback(self._report)
            case _:
                self.send_error(f"accepted types: {_WISHES}")

    def _report(self, said: asyncio.Future[None]) -> None:
        error = None if said.cancelled() else said.exception()
        if isinstance(error, MoshiAgentError):
            self.send_error(str(error))


def _dump(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
