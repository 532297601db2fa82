"""Callbacks for the events of a conversation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from moshi_agent.engine.event_queue import EventQueue
from moshi_agent.events import AudioChunk, Event, TextToken

_log = logging.getLogger("moshi_agent.engine")


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What is called with the events of a conversation, one after the other, in a thread of its own."""

    on_audio: Callable[[AudioChunk], object] | None = None
    on_text: Callable[[TextToken], object] | None = None
    on_event: Callable[[Event], object] | None = None  # every event, those two kinds too

    def __bool__(self) -> bool:
        return any((self.on_audio, self.on_text, self.on_event))

    def call(self, event: Event) -> None:
        """Hands one event to whom it concerns."""
        if self.on_audio is not None and isinstance(event, AudioChunk):
            self.on_audio(event)
        if self.on_text is not None and isinstance(event, TextToken):
            self.on_text(event)
        if self.on_event is not None:
            self.on_event(event)

    def start(self, events: EventQueue, session: int) -> threading.Thread:
        """Calls them in a thread that ends with the conversation."""
        # It holds the queue rather than the session, which would otherwise never be dropped.
        thread = threading.Thread(
            target=self._call_all, args=(events, session), name=f"moshi-session-{session}", daemon=True
        )
        thread.start()
        return thread

    def _call_all(self, events: EventQueue, session: int) -> None:
        while (event := events.get()) is not None:
            try:
                self.call(event)
            except Exception as error:
                _log.exception(
                    "session %d: a callback failed, the conversation goes on: %s",
                    *(session, error),
                    extra={"session": session},
                )
