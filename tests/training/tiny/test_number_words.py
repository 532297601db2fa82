"""Numbers, times and money in words."""

from __future__ import annotations

import pytest

from moshi_agent.training.tiny.number_words import amount, clock, number


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "zero"), (13, "thirteen"), (20, "twenty"), (47, "forty seven"), (99, "ninety nine")],
)
def test_numbers_in_words(value: int, words: str) -> None:
    """Up to ninety-nine, without a hyphen: each part is a word of its own."""
    assert number(value) == words


@pytest.mark.parametrize(
    ("hour", "minute", "words"),
    [
        (7, 0, "seven o'clock"),
        (12, 15, "a quarter past twelve"),
        (4, 30, "half past four"),
        (12, 45, "a quarter to one"),
        (10, 5, "ten oh five"),
        (9, 20, "nine twenty"),
    ],
)
def test_times_in_words(hour: int, minute: int, words: str) -> None:
    """As people say them."""
    assert clock(hour, minute) == words


def test_amounts_in_words() -> None:
    """One dollar has no plural, and cents can stand alone."""
    assert amount(1, 0) == "one dollar"
    assert amount(12, 50, "euro") == "twelve euros and fifty cents"
    assert amount(0, 5) == "five cents"
