"""What both sides of a conversation have said, turn by turn."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from moshi_agent.errors import InputError
from moshi_agent.events import (
    BotStopped,
    Ended,
    Event,
    Speaker,
    Turn,
    UserSaid,
    UserStarted,
    UserText,
    UserWord,
    Word,
)
from moshi_agent.saved import saved_record

_MOST_TURNS = 1000  # that are kept; the oldest go
_PAUSE_S = 2.0  # within what the bot says: after a longer one another turn begins


class Transcript:
    """Collects turns from the events of a conversation.

    A turn of the user lasts until the recogniser takes it for complete; without a recogniser there are none.
    A turn of the bot lasts until it stops, and goes on if it speaks again before the user does and soon.
    One thread may add events while others read the turns.
    """

    def __init__(self) -> None:
        self._turns: list[Turn] = []  # by their starts
        self._user_has_spoken = False  # since the bot has stopped

    def __len__(self) -> int:
        return len(self._turns)

    def __str__(self) -> str:
        """Writes a line for each turn, as prompts of language models have them."""
        return "\n".join(f"{turn.speaker}: {turn.text}" for turn in self.turns)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Returns all turns, the last of which may still go on, by the times at which they begin."""
        return tuple(self._turns)

    def begin_with(self, turns: Iterable[Turn]) -> None:
        """Takes the turns of a conversation that goes on from a snapshot."""
        self._turns = list(turns)

    def add(self, event: Event) -> None:
        """Takes the next event; most tell nothing of what is said."""
        match event:
            case Word():
                self._write("bot", " " + event.text, event.start, event.end)
            case UserText():
                self._write("user", event.text, event.start, event.start)
            case UserWord():
                self._extend("user", event.end)
            case UserSaid():
                self._say_all(event)
            case UserStarted():
                self._user_has_spoken = True
            case BotStopped():
                self._user_has_spoken = False
                self._end("bot")
            case Ended():
                self._end("bot")
                self._end("user")
            case _:
                pass

    def _write(self, speaker: Speaker, text: str, start: float, end: float) -> None:
        turn = self._last(speaker)
        if turn is not None and self._goes_on(turn, start):
            text = f"{turn.text}{text}" if turn.text else text.lstrip()
            self._put(turn, replace(turn, text=text, end=max(end, turn.end), whole=False))
        else:
            self._begin(Turn(speaker=speaker, text=text.lstrip(), start=start, end=end))

    def _goes_on(self, turn: Turn, start: float) -> bool:
        if not turn.whole:
            return True
        is_last = turn is self._turns[-1] and not self._user_has_spoken
        return turn.speaker == "bot" and is_last and start - turn.end < _PAUSE_S

    def _begin(self, turn: Turn) -> None:
        insort(self._turns, turn, key=lambda one: one.start)
        del self._turns[:-_MOST_TURNS]

    def _extend(self, speaker: Speaker, end: float) -> None:
        turn = self._last(speaker)
        if turn is not None:
            self._put(turn, replace(turn, end=max(end, turn.end)))

    def _say_all(self, said: UserSaid) -> None:
        whole = Turn(speaker="user", text=said.text, start=said.start, end=said.end, whole=True)
        turn = self._last("user")
        if turn is not None and not turn.whole:
            self._put(turn, whole)
        else:
            self._begin(whole)

    def _end(self, speaker: Speaker) -> None:
        turn = self._last(speaker)
        if turn is not None:
            self._put(turn, replace(turn, whole=True))

    def _last(self, speaker: Speaker) -> Turn | None:
        return next((turn for turn in reversed(self._turns) if turn.speaker == speaker), None)

    def _put(self, old: Turn, new: Turn) -> None:
        place = next(place for place in range(len(self._turns) - 1, -1, -1) if self._turns[place] is old)
        self._turns[place] = new

    def save(self) -> dict[str, Any]:
        """Returns all that it holds, fit for JSON."""
        turns = [asdict(turn) for turn in self._turns]
        return {"turns": turns, "user_has_spoken": self._user_has_spoken}

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave."""
        turns = [saved_record(Turn, turn) for turn in saved["turns"][-_MOST_TURNS:]]
        if any(turn.speaker not in ("user", "bot") for turn in turns):
            raise InputError("damaged: a turn of neither the user nor the bot")
        self._turns, self._user_has_spoken = turns, saved["user_has_spoken"] is True
