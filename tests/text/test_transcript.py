"""The transcript of a conversation, from the events that tell what is said."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import InputError
from moshi_agent.events import BotStopped, Ended, Event, Turn, UserSaid, UserStarted, UserText, UserWord, Word
from moshi_agent.text.transcript import Transcript

AT: dict[str, Any] = {"frame": 0, "media_s": 0.0, "wall_s": 0.0}


def bot(text: str, start: float) -> list[Event]:
    """Words of the bot, 0.3 s each."""
    words = text.split()
    return [
        Word(**AT, text=word, start=start + 0.3 * place, end=start + 0.3 * (place + 1))
        for place, word in enumerate(words)
    ]


def user(text: str, start: float, whole: bool = True) -> list[Event]:
    events: list[Event] = []
    for place, word in enumerate(text.split()):
        at = start + 0.3 * place
        events += [
            UserText(**AT, text=f" {word}", start=at),
            UserWord(**AT, text=word, start=at, end=at + 0.3),
        ]
    end = start + 0.3 * len(text.split())
    return [*events, *([UserSaid(**AT, text=text, start=start, end=end)] if whole else [])]


def transcript_of(*events: list[Event]) -> Transcript:
    transcript = Transcript()
    for event in chain.from_iterable(events):
        transcript.add(event)
    return transcript


def test_both_sides_speak_in_turns() -> None:
    transcript = transcript_of(
        bot("Hello, this is Moshi.", 0.0),
        [BotStopped(**AT)],
        user("Where is my order?", 2.0),
        bot("On its way.", 4.0),
    )
    assert transcript.turns == (
        Turn(speaker="bot", text="Hello, this is Moshi.", start=0.0, end=pytest.approx(1.2), whole=True),
        Turn(speaker="user", text="Where is my order?", start=2.0, end=pytest.approx(3.2), whole=True),
        Turn(speaker="bot", text="On its way.", start=4.0, end=pytest.approx(4.9)),
    )
    assert str(transcript) == "bot: Hello, this is Moshi.\nuser: Where is my order?\nbot: On its way."


def test_a_turn_that_goes_on_is_there_already() -> None:
    """Also with a word whose end is not known yet."""
    events = [*user("Where is my", 2.0, whole=False), UserText(**AT, text=" order", start=2.9)]
    [turn] = transcript_of(events).turns
    assert (turn.text, turn.whole) == ("Where is my order", False)


def test_turns_stand_in_the_order_in_which_they_begin() -> None:
    """The words of the user are written later than those of the bot that interrupts him."""
    transcript = transcript_of(bot("Yes?", 1.0), [BotStopped(**AT)], user("Well, hello", 0.5))
    assert [turn.speaker for turn in transcript.turns] == ["user", "bot"]


@pytest.mark.parametrize(
    ("between", "turns"),
    [([BotStopped(**AT)], 1), ([BotStopped(**AT), UserStarted(**AT)], 2), ([], 1)],
    ids=["a breath", "the user has spoken", "no pause"],
)
def test_the_bot_goes_on_with_its_turn_unless_the_user_has_spoken(between: list[Event], turns: int) -> None:
    assert len(transcript_of(bot("One.", 0.0), between, bot("Two.", 1.0))) == turns


def test_a_long_pause_ends_a_turn() -> None:
    assert len(transcript_of(bot("One.", 0.0), [BotStopped(**AT)], bot("Two.", 5.0))) == 2


def test_the_end_makes_all_whole() -> None:
    transcript = transcript_of(
        bot("One.", 0.0), user("And", 0.2, whole=False), [Ended(**AT, reason="closed")]
    )
    assert all(turn.whole for turn in transcript.turns)


def test_only_the_newest_thousand_turns_are_kept() -> None:
    transcript = transcript_of(*(user(f"{number}", 2.0 * number) for number in range(1100)))
    assert len(transcript) == 1000 and transcript.turns[-1].text == "1099"


EVENTS = st.lists(st.sampled_from(["bot", "stop", "user", "said", "start"]), max_size=30)


@given(EVENTS, st.integers(0, 30))
def test_one_that_was_saved_goes_on(kinds: list[str], place: int) -> None:
    whole, resumed = Transcript(), Transcript()
    for number, kind in enumerate(kinds):
        if number == place:
            saved = json.loads(json.dumps(resumed.save()))
            resumed = Transcript()
            resumed.load(saved)
        made: dict[str, Event] = {
            "bot": Word(**AT, text=f"w{number}", start=float(number), end=number + 0.5),
            "stop": BotStopped(**AT),
            "user": UserText(**AT, text=f" u{number}", start=float(number)),
            "said": UserSaid(**AT, text=f"all {number}", start=float(number), end=number + 0.5),
            "start": UserStarted(**AT),
        }
        for one in (whole, resumed):
            one.add(made[kind])
    assert whole.turns == resumed.turns
    starts = [turn.start for turn in whole.turns if not turn.whole or turn.speaker == "bot"]
    assert starts == sorted(starts)


def test_a_damaged_one_is_refused() -> None:
    turn = {"speaker": "nobody", "text": "", "start": 0.0, "end": 0.0, "whole": True}
    with pytest.raises(InputError, match="neither"):
        Transcript().load({"turns": [turn], "user_has_spoken": False})
