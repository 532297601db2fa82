"""The data channel: events to the caller as JSON, a few wishes of the caller back."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiortc import RTCDataChannel
from aiortc.exceptions import InvalidStateError

from moshi_agent import MoshiAgentError, Session
from moshi_agent_adapters.allowance import Allowance

_MOST_WAITING = 1000  # messages, before the channel is open
_MOST_BUFFERED_BYTES = 1 << 20  # of a caller who does not read
_LONGEST_MESSAGE = 16_384  # characters, from the caller
_LONGEST_SAY = 500  # characters: some thirty seconds of speech
_CHARACTERS_A_MESSAGE = 1024  # longer ones count as several
_AT_ONCE_S = 5.0  # of what a second may bring, that may come together
_ENDURED = 10  # times what is answered: who sends more is no caller
_WISHES = "say, ping"


class EventChannel:
    """Sends JSON over the channel that the caller opens, as soon as it is open.

    The caller may send
        {"type": "say", "text": "..."}      the bot is to speak these words
        {"type": "ping", "id": anything}    answered with {"type": "pong", "id": the same}
    and gets {"type": "error", "message": "..."} for anything else, and for more than so many a second; of
    those that are too many only the first is answered.

    Args:
        messages_per_second: of the caller, all channels together.
        says_per_second: how many of them may be sentences to say.
        on_flood: called when a multiple of that comes, of which reading alone costs other calls their time.
        clock: in seconds.
    """

    def __init__(
        self,
        messages_per_second: float = 20.0,
        says_per_second: float = 2.0,
        on_flood: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._messages = Allowance(messages_per_second, _AT_ONCE_S * messages_per_second)
        self._says = Allowance(says_per_second, _AT_ONCE_S * says_per_second)
        endured = _ENDURED * messages_per_second
        self._endured = Allowance(endured, _AT_ONCE_S * endured)
        self._on_flood = on_flood
        self._clock = clock
        self._is_refusing = False
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
        if self._is_within_bounds(message):
            self._take(message)

    def _is_within_bounds(self, message: str | bytes) -> bool:
        cost, now = 1 + len(message) / _CHARACTERS_A_MESSAGE, self._clock()
        if not self._endured.spend(cost, now):
            self._on_flood()
            return False
        was_refusing, self._is_refusing = self._is_refusing, not self._messages.spend(cost, now)
        if self._is_refusing and not was_refusing:
            self.send_error("too many messages; accepted: fewer a second", "too_many_messages")
        return not self._is_refusing

    def _take(self, message: str | bytes) -> None:
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
        try:
            self._obey(wish)
        except RecursionError:  # what was just not too deep to read is too deep to be sent back
            self.send_error("accepted: a JSON object that is less deep")

    def _obey(self, wish: dict[str, Any]) -> None:
        match wish:
            case {"type": "ping"}:
                self.send(_dump({"type": "pong", "id": wish.get("id")}))
            case {"type": "say", "text": str(text)} if len(text) > _LONGEST_SAY:
                self.send_error(f"a sentence of {len(text)} characters; accepted: at most {_LONGEST_SAY}")
            case {"type": "say", "text": str()} if not self._says.spend(1, self._clock()):
                self.send_error("too much to say; accepted: fewer sentences a second", "too_many_messages")
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
    # Escaped: the caller's own words may come back, and hold halves of surrogate pairs.
    return json.dumps(values, separators=(",", ":"))
