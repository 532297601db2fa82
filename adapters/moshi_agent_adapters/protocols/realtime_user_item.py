"""What the user says in one piece, as OpenAI's Realtime protocol tells it: an item with a transcript."""

from __future__ import annotations

from collections.abc import Iterator

from moshi_agent_adapters.protocols.json_events import Json
from moshi_agent_adapters.protocols.realtime_events import RealtimeEvents
from moshi_agent_adapters.protocols.turn_text import TurnText

_TRANSCRIPTION = "conversation.item.input_audio_transcription"


class RealtimeUserItem:
    """Makes the events of one item, which is told of once something of it is known.

    Args:
        make_event: writes an event.
        item_id: its name.
        after: the id of the conversation's item before this one.
    """

    def __init__(self, make_event: RealtimeEvents, item_id: str, after: str | None) -> None:
        self._make_event = make_event
        self.item_id = item_id
        self.after = after
        self._is_told = False
        self._transcript = TurnText()

    def text(self, piece: str) -> Iterator[str]:
        """Returns the events for a piece of the transcript, which begins without a space."""
        piece = self._transcript.add(piece)
        if not piece:
            return
        yield from self._begin()
        yield self._make_event(f"{_TRANSCRIPTION}.delta", item_id=self.item_id, content_index=0, delta=piece)

    def end(self, seconds: float) -> Iterator[str]:
        """Returns the events for its end, after so many seconds of speech."""
        yield from self._begin()
        yield self._make_event(
            f"{_TRANSCRIPTION}.completed",
            item_id=self.item_id,
            content_index=0,
            transcript=self._transcript.text.rstrip(),
            usage={"type": "duration", "seconds": round(seconds, 3)},
        )
        yield self._make_event("conversation.item.done", item=self._item("completed"))

    def _begin(self) -> Iterator[str]:
        if not self._is_told:
            self._is_told = True
            item = self._item("in_progress")
            yield self._make_event("conversation.item.added", previous_item_id=self.after, item=item)

    def _item(self, status: str) -> Json:
        content = {"type": "input_audio", "transcript": self._transcript.text.rstrip()}
        names = {"object": "realtime.item", "id": self.item_id, "type": "message", "role": "user"}
        return {**names, "status": status, "content": [content]}
