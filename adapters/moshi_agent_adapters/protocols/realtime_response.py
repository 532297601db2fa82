"""One turn of the bot as OpenAI's Realtime protocol tells it: a response of one item with one part.

The order is what clients of the protocol wait for:

    response.created
    response.output_item.added, conversation.item.added, response.content_part.added
    response.output_audio.delta and response.output_audio_transcript.delta, as often as there are some
    response.output_audio.done, response.output_audio_transcript.done, response.content_part.done
    response.output_item.done, conversation.item.done
    response.done
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from moshi_agent_adapters.protocols.json_events import Json
from moshi_agent_adapters.protocols.turn_text import TurnText

ResponseEnd = Literal["completed", "turn_detected", "client_cancelled"]


class RealtimeResponse:
    """Makes the events of one response.

    Args:
        make_event: writes an event with an id, of its type and its fields.
        number: of the response in its session, from 1 on.
        after: the id of the conversation's item before this one.
        shape: what the client has asked for, as `response.created` repeats it: `metadata`, `audio`.
    """

    def __init__(self, make_event: Callable[..., str], number: int, after: str | None, shape: Json) -> None:
        self._make_event = make_event
        self._id = f"resp_{number}"
        self.item_id = f"item_{number}"
        self._after = after
        self._shape = shape
        self._place = {
            "response_id": self._id,
            "item_id": self.item_id,
            "output_index": 0,
            "content_index": 0,
        }
        self._transcript = TurnText()

    def begin(self) -> Iterator[str]:
        """Returns the events before the first sound."""
        item = self._item("in_progress", [])
        yield self._make_event("response.created", response=self._response("in_progress"))
        yield self._make_event("response.output_item.added", response_id=self._id, output_index=0, item=item)
        yield self._make_event("conversation.item.added", previous_item_id=self._after, item=item)
        part = {"type": "audio", "transcript": ""}
        yield self._make_event("response.content_part.added", **self._place, part=part)

    def audio(self, delta: str) -> str:
        """Returns the event for a piece of audio, in base64."""
        return self._make_event("response.output_audio.delta", **self._place, delta=delta)

    def text(self, piece: str) -> Iterator[str]:
        """Returns the event for a piece of the transcript, which begins without a space."""
        if piece := self._transcript.add(piece):
            yield self._make_event("response.output_audio_transcript.delta", **self._place, delta=piece)

    def end(self, end: ResponseEnd) -> Iterator[str]:
        """Returns the events after the last sound."""
        transcript = self._transcript.text
        status = "completed" if end == "completed" else "incomplete"  # of the item
        item = self._item(status, [{"type": "output_audio", "transcript": transcript}])
        yield self._make_event("response.output_audio.done", **self._place)
        yield self._make_event("response.output_audio_transcript.done", **self._place, transcript=transcript)
        part = {"type": "audio", "transcript": transcript}
        yield self._make_event("response.content_part.done", **self._place, part=part)
        yield self._make_event("response.output_item.done", response_id=self._id, output_index=0, item=item)
        yield self._make_event("conversation.item.done", previous_item_id=self._after, item=item)
        response = self._response("completed" if end == "completed" else "cancelled") | {"output": [item]}
        if end != "completed":
            response["status_details"] = {"type": "cancelled", "reason": end}
        yield self._make_event("response.done", response=response)

    def _response(self, status: str) -> Json:
        return {
            "object": "realtime.response",
            "id": self._id,
            "status": status,
            "status_details": None,
            "output": [],
            "output_modalities": ["audio"],
            "usage": None,
            **self._shape,
        }

    def _item(self, status: str, content: list[Json]) -> Json:
        return {
            "object": "realtime.item",
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }
