"""Where the bot's continuous speech is cut into turns, which is what transcripts and contexts are made of."""

from __future__ import annotations

from moshi_agent import BotStarted, BotStopped, Event, Interrupted, TextToken, UserStarted

_GAP_FRAMES = 10  # 800 ms: between two sentences of an answer the bot pauses for less


def begins_turn(event: Event) -> bool:
    """Whether the bot, silent so far, now speaks. Its text may come a frame before its voice."""
    return isinstance(event, TextToken | BotStarted)


class BotTurn:
    """Follows one turn of the bot: over after 800 ms of silence, or sooner where the user speaks."""

    def __init__(self) -> None:
        self._is_speaking = True
        self._silent_since = 0  # frame

    def ends_with(self, event: Event) -> bool:
        """Whether the turn is over after this event. To be asked for every event of the turn, in order."""
        match event:
            case TextToken() | BotStarted():
                self._is_speaking = True
            case BotStopped():
                self._is_speaking = False
                self._silent_since = event.frame
            case Interrupted():
                return True
            case UserStarted():
                return not self._is_speaking
            case _:
                pass
        return not self._is_speaking and event.frame - self._silent_since >= _GAP_FRAMES
