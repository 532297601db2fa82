"""What one user says as events, from a recogniser's tokens and the voice activity of each frame."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moshi_agent import Event, UserPaused, UserSaid, UserText, UserWord
from moshi_agent.engine.call.stamp import Stamp
from moshi_agent.engine.call.user_words import UserWords
from moshi_agent.engine.step.step_tensors import RowOutput
from moshi_agent.text.timed_reader import Hearing
from tests.text_tokenizers import END_OF_PADDING, PADDING, byte_tokenizer

DELAY_S = 0.5
THE, CAT = (byte_tokenizer().PieceToId(f"\u2581{word}") for word in ("the", "cat"))


def follower() -> UserWords:
    return UserWords(Hearing(tokenizer=byte_tokenizer(), delay_s=DELAY_S))


def output(token: int, pause: float = 0.0) -> RowOutput:
    heads = (0.0, 0.0, pause, 0.0)
    return RowOutput(audio=None, text=token, next_text=token, healthy=True, heads=heads)


def follow(
    words: UserWords, steps: list[tuple[int, bool]], pause: float = 0.0, first: int = 0
) -> list[Event]:
    """The events of (token, whether the user speaks), frame by frame."""
    events: list[Event] = []
    for frame, (token, speaks) in enumerate(steps, first):
        events += words.follow(output(token, pause), speaks, Stamp(frame, 1000.0))
    return events


def told(events: list[Event]) -> list[tuple[int, str, str]]:
    """Frame, kind and text of each."""
    return [(event.frame, type(event).__name__, getattr(event, "text", "")) for event in events]


SPOKEN = [(PADDING, True)] * 8 + [(END_OF_PADDING, True), (THE, True), (CAT, False)]


def test_text_comes_at_once_and_all_of_it_when_the_user_has_stopped() -> None:
    events = follow(follower(), [*SPOKEN, *[(PADDING, False)] * 10])
    assert told(events) == [
        (9, "UserText", " the"),
        (10, "UserText", " cat"),
        (10, "UserWord", "the"),
        (14, "UserWord", "cat"),
        (14, "UserSaid", "the cat"),
    ]
    said = events[-1]
    assert isinstance(said, UserSaid)
    assert (said.start, said.end) == (pytest.approx(10 * 0.08 - DELAY_S), pytest.approx(16 * 0.08 - DELAY_S))
    assert (said.media_s, said.wall_s) == (1.12, 1000.0)


def test_while_the_user_speaks_nothing_is_complete() -> None:
    events = follow(follower(), [*SPOKEN[:-1], *[(PADDING, True)] * 30])
    assert [type(event) for event in events] == [UserText, UserWord]


def test_a_pause_completes_it_though_there_is_a_voice() -> None:
    """Noise may sound like a voice; the recogniser knows better, and its text has to catch up first."""
    events = follow(follower(), [*SPOKEN[:-1], *[(PADDING, True)] * 30], pause=0.9)
    assert told(events)[:2] == [(9, "UserText", " the"), (9, "UserPaused", "")]
    assert [event.probability for event in events if isinstance(event, UserPaused)] == [0.9]
    (said,) = [event for event in events if isinstance(event, UserSaid)]
    assert said.frame == 9 + 7  # half a second
    assert isinstance(events[-2], UserWord)


def test_every_stretch_of_speech_is_told_by_itself() -> None:
    words = follower()
    once = [*SPOKEN, *[(PADDING, False)] * 12]
    events = follow(words, once) + follow(words, once, first=len(once))
    said = [event for event in events if isinstance(event, UserSaid)]
    assert [event.text for event in said] == ["the cat", "the cat"]
    assert said[0].end < said[1].start


def test_silence_says_nothing() -> None:
    assert follow(follower(), [(PADDING, False), (END_OF_PADDING, False)] * 50) == []


def test_the_end_of_the_call_completes_what_was_said() -> None:
    words = follower()
    follow(words, SPOKEN)
    assert told(words.finish(Stamp(len(SPOKEN), 0.0)))[-1] == (10, "UserSaid", "the cat")
    assert words.finish(Stamp(len(SPOKEN), 0.0)) == []


def test_what_never_ends_is_told_in_parts() -> None:
    events = follow(follower(), [(THE, True)] * 2000)
    said = [event for event in events if isinstance(event, UserSaid)]
    assert 3 <= len(said) <= 5
    assert max(len(event.text) for event in said) < 2100


def test_it_goes_on_elsewhere() -> None:
    steps: list[Any] = [*SPOKEN, *[(PADDING, False)] * 10]
    for cut in range(len(steps)):
        here, there = follower(), follower()
        follow(here, steps[:cut])
        there.load(json.loads(json.dumps(here.save())))
        assert follow(there, steps[cut:], first=cut) == follow(here, steps[cut:], first=cut)
