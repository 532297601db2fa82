"""Where the bot's speech is cut into turns."""

from __future__ import annotations

from collections.abc import Callable

from moshi_agent import BotStarted, BotStopped, Event, Interrupted, TextToken, UserStarted, UserStopped
from moshi_agent_adapters.bot_turn import BotTurn, begins_turn


def at(frame: int, kind: Callable[..., Event], **fields: object) -> Event:
    return kind(frame=frame, media_s=frame * 0.08, wall_s=0.0, **fields)


def text(frame: int) -> Event:
    return at(frame, TextToken, text=" and", token=7, aligned_frame=frame + 1)


def ends_at(*events: Event) -> int | None:
    """The frame of the event that ends the turn."""
    turn = BotTurn()
    return next((event.frame for event in events if turn.ends_with(event)), None)


def frames(first: int, last: int) -> list[Event]:
    """Something that tells nothing but the time."""
    return [at(frame, UserStopped) for frame in range(first, last)]


def test_it_begins_with_text_or_voice() -> None:
    assert begins_turn(text(0)) and begins_turn(at(0, BotStarted))
    assert not begins_turn(at(0, BotStopped)) and not begins_turn(at(0, UserStarted))


def test_it_ends_after_800_ms_of_silence() -> None:
    assert ends_at(text(0), at(1, BotStarted), at(20, BotStopped), *frames(21, 60)) == 30


def test_a_pause_between_sentences_does_not_end_it() -> None:
    pause = [at(20, BotStopped), *frames(21, 29), text(29), at(30, BotStarted), *frames(31, 60)]
    assert ends_at(text(0), *pause) is None


def test_a_user_who_speaks_into_the_silence_ends_it() -> None:
    assert ends_at(text(0), at(20, BotStopped), at(23, UserStarted)) == 23


def test_a_user_who_speaks_into_the_speech_does_not() -> None:
    assert ends_at(text(0), at(1, BotStarted), at(5, UserStarted), *frames(6, 40)) is None


def test_an_interruption_ends_it_at_once() -> None:
    events = [at(5, UserStarted), at(12, BotStopped), at(12, Interrupted)]
    assert ends_at(text(0), at(1, BotStarted), *events) == 12
