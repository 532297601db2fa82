"""Two voices that start and stop, as events."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.engine.call.turns import TurnEvent, Turns, TurnsConfig
from moshi_agent.events import (
    BotStarted,
    BotStopped,
    Interrupted,
    OverlapStarted,
    OverlapStopped,
    UserStarted,
    UserStopped,
)
from moshi_agent.text.pieces import ends_sentence

Happened = list[tuple[int, type[TurnEvent]]]


def _played(user: list[int], bot: list[int], frames: int = 120, sentence_ended: bool = False) -> Happened:
    """What happens, and when, if the voices change state in the frames given."""
    turns, happened = Turns(), []
    for frame in range(frames):
        speaking = [sum(change <= frame for change in changes) % 2 == 1 for changes in (user, bot)]
        events = turns.follow(speaking[0], speaking[1], bot_sentence_ended=sentence_ended)
        happened += [(frame, event) for event in events]
    return happened


def test_turn_after_turn() -> None:
    """A question and its answer are four events."""
    assert _played(user=[5, 26], bot=[28, 60]) == [
        (5, UserStarted),
        (26, UserStopped),
        (28, BotStarted),
        (60, BotStopped),
    ]


def test_cutting_in_is_an_interruption() -> None:
    """The frames at which `tiny`, asked for a story, was told to stop in mid-sentence."""
    happened = _played(user=[5, 26, 48, 68], bot=[25, 54, 67, 91])
    assert happened[3:10] == [
        (26, OverlapStopped),
        (26, UserStopped),
        (48, UserStarted),
        (48, OverlapStarted),
        (54, OverlapStopped),
        (54, BotStopped),
        (54, Interrupted),
    ]
    assert [event for _, event in happened].count(Interrupted) == 1


def test_who_has_finished_is_not_interrupted() -> None:
    """The frames at which `tiny` ended its story just as the user spoke: its text ended with a full stop."""
    voices = {"user": [5, 26, 66, 86], "bot": [25, 71, 84, 108]}
    assert Interrupted in [event for _, event in _played(**voices)]
    assert Interrupted not in [event for _, event in _played(**voices, sentence_ended=True)]


@pytest.mark.parametrize(
    ("user", "bot", "why"),
    [
        ([40, 60], [10, 44], "the sound had ended before: the rest is the gate's hold"),
        ([40, 90], [10, 70], "it stopped long after"),
        ([40, 44], [10, 60], "the user had said a word and fallen silent"),
        ([20, 60], [30, 50], "the bot had cut in, not the user"),
        ([30, 60], [30, 50], "both began at once"),
        ([50, 60], [10, 50], "one stopped as the other began"),
    ],
)
def test_what_is_no_interruption(user: list[int], bot: list[int], why: str) -> None:
    assert Interrupted not in [event for _, event in _played(user, bot)], why


@pytest.mark.parametrize(
    ("user", "bot"),
    [
        ([40, 90], [10, 65]),  # two seconds later
        ([40, 48], [10, 50]),  # just after the user, too
        ([40, 45, 48, 60], [10, 50]),  # a pause in between is not a second beginning
        ([5, 15, 40, 60], [10, 50]),  # the bot had cut in, but this is about later
    ],
)
def test_what_is_an_interruption(user: list[int], bot: list[int]) -> None:
    assert (bot[1], Interrupted) in _played(user, bot)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=150), st.integers(0, 150))
def test_events_pair_up_and_survive_saving(frames: list[tuple[bool, bool, bool]], saved_at: int) -> None:
    """Starts and stops alternate and give the states back; a restored object goes on the same."""
    turns, restored, is_on = Turns(), Turns(), {"User": False, "Bot": False, "Overlap": False}
    for index, (user, bot, ended) in enumerate(frames):
        if index == saved_at:
            restored.load(json.loads(json.dumps(turns.save())))
        events = turns.follow(user, bot, ended)
        again = restored.follow(user, bot, ended)
        assert again == events or index < saved_at
        for event in events:
            if event is Interrupted:
                assert BotStopped in events and not ended
                continue
            who, what = event.__name__.replace("Started", " on").replace("Stopped", " off").split()
            assert is_on[who] == (what == "off")
            is_on[who] = what == "on"
        assert is_on == {"User": user, "Bot": bot, "Overlap": user and bot}


def test_the_times_can_be_set() -> None:
    """A bot that yields later is given the time for it."""
    patient = Turns(TurnsConfig(yield_ms=4000))
    for frame in range(70):
        patient.follow(frame >= 40, True)
    for frame in range(10):
        assert patient.follow(True, frame < 9) == (
            [] if frame < 9 else [OverlapStopped, BotStopped, Interrupted]
        )


@pytest.mark.parametrize("text", ["Hello.", "Hello. ", "What?", 'He said "go!"', "(So.)", "Well\u2026"])
def test_a_sentence_ends(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize("text", ["", "Hello", "Hello,", "3.5", "It is. But"])
def test_a_sentence_goes_on(text: str) -> None:
    assert not ends_sentence(text)
