"""What the user says, as LiveKit is told of it."""

from __future__ import annotations

from livekit.agents import llm
from livekit.agents.utils import shortuuid

from moshi_agent import UserSaid, UserText


class UserSpeech:
    """Makes interim and final transcripts of the words of one user."""

    def __init__(self) -> None:
        self._item_id = shortuuid("item_")
        self._text = ""

    def interim(self, event: UserText) -> llm.InputTranscriptionCompleted | None:
        """Returns what has been said so far, or None where that is nothing."""
        self._text += event.text
        text = self._text.strip()
        return self._transcript(text, is_final=False) if text else None

    def final(self, event: UserSaid) -> llm.InputTranscriptionCompleted:
        """Returns all of it, with the time at which it began."""
        began_at = event.wall_s - (event.media_s - event.start)
        transcript = self._transcript(event.text, is_final=True, began_at=began_at)
        self._item_id, self._text = shortuuid("item_"), ""
        return transcript

    def _transcript(
        self, text: str, *, is_final: bool, began_at: float | None = None
    ) -> llm.InputTranscriptionCompleted:
        return llm.InputTranscriptionCompleted(
            item_id=self._item_id, transcript=text, is_final=is_final, turn_started_at=began_at
        )
