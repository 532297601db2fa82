"""Which stretch of an utterance each word is."""

# ruff: noqa: RUF001
from __future__ import annotations

import pytest

from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.piper_voice import Phone
from moshi_agent.training.tiny.word_times import word_times


def phones(names: str, step: float = 0.1) -> list[Phone]:
    """One phone for each letter, all of one length."""
    return [Phone(name=name, end=(number + 1) * step) for number, name in enumerate(names)]


def test_words_are_groups_of_phones() -> None:
    """A word lasts from its first phone to its last; the mark between words belongs to none."""
    times = word_times("No, now.", phones("no, naw."), [2, 3], 1.0)
    assert [word.word for word in times] == ["No,", "now."]
    assert [(word.start, word.end) for word in times] == [
        pytest.approx((0.0, 0.2)),
        pytest.approx((0.4, 0.7)),
    ]


def test_words_that_are_run_together_share_their_time_by_their_phones() -> None:
    """A speaker says "of the" as one; each word gets a share as long as it would be alone."""
    times = word_times("one of the best", phones("wan ovðə best"), [3, 2, 2, 4], 1.3)
    assert [word.word for word in times] == ["one", "of", "the", "best"]
    assert [word.start for word in times] == pytest.approx([0.0, 0.4, 0.6, 0.9])


def test_a_stress_belongs_to_no_word_and_a_length_to_the_phone_before() -> None:
    """Marks have time of their own, which is not left out."""
    times = word_times("all", phones("ˈɔːl"), [2], 0.4)
    assert (times[0].start, times[0].end) == pytest.approx((0.1, 0.4))


def test_more_groups_than_words_are_refused() -> None:
    """A number in digits is said in several words, of which nobody can tell which is which."""
    with pytest.raises(ConfigError, match="plain words"):
        word_times("21", phones("twenti wan"), [9], 1.0)
