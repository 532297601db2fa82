"""Signs and digits are said in words where a tokenizer has no pieces for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.text.number_words import number_words
from moshi_agent.text.pieces import pieces_of
from moshi_agent.text.spoken_signs import write_out
from tests.text_tokenizers import byte_tokenizer, shipped_tokenizer


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("It rose by 5 % and 1%.", "It rose by 5 percent and 1 percent."),
        ("\u20ac5, 5 \u20ac, 1 \u20ac", "5 euros, 5 euros, 1 euro"),
        ("$1 or $1,000", "1 dollar or 1,000 dollars"),
        ("$1.01, $5.50, $0.99", "1 dollar and 1 cent, 5 dollars and 50 cents, 99 cents"),
        ("\u00a32.01 and \u00a50.5", "2 pounds and 1 penny and 0.5 yen"),
        ("$5 million, \u20ac3k, 2bn $", "5 million dollars, 3 thousand euros, 2 billion dollars"),
        ("prices in $ or \u20ac", "prices in dollars or euros"),
        ("3 + 4 = 7", "3 plus 4 equals 7"),
        ("2\u00d73\u00f76, 5 * 3", "2 times 3 divided by 6, 5 times 3"),
        ("AT&T, me@here.com", "AT and T, me at here.com"),
        (
            "20 \u00b0C, 1\u00b0C, -5 \u00b0F, 21\u2103",
            "20 degrees Celsius, 1 degree Celsius, minus 5 degrees Fahrenheit, 21 degrees Celsius",
        ),
        ("turn 90\u00b0 left", "turn 90 degrees left"),
        ("#5 of \u00a7 7 and \u00a7\u00a7 8", "number 5 of section 7 and sections 8"),
        ("$20\u2013$30, 5\u20136", "20 dollars to 30 dollars, 5 to 6"),
        ("2\u00bd of 10\u00b2 m\u00b3, \u00be", "2 and a half of 10 squared m cubed, three quarters"),
        ("\u22655, \u22642, \u00b13, ~4", "at least 5, at most 2, plus or minus 3, about 4"),
        ("\u0663 apples", "3 apples"),
        ("one ===== two *** three", "one two three"),
        ("#hello *you* a-b", "hello you a b"),
    ],
)
def test_signs_are_said_in_words(written: str, said: str) -> None:
    assert pieces_of(shipped_tokenizer(), written) == pieces_of(shipped_tokenizer(), said)


def test_what_a_tokenizer_has_pieces_for_stays() -> None:
    text = "5 % of $5 & \u20ac2 + 3\u00d74 #1"
    assert byte_tokenizer().decode(pieces_of(byte_tokenizer(), text)) == text


def _is_letter(character: str) -> bool:
    return character.isalpha() and character.isascii()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("It costs $1.01.", "It costs one dollar and one cent."),
        ("1,250 people, 3.05 each", "one thousand two hundred fifty people, three point zero five each"),
        ("the 1st, 22nd, 30th and 112th", "the first, twenty second, thirtieth and one hundred twelfth"),
        ("agent 007 at 0 \u00b0C", "agent zero zero seven at zero degrees Celsius"),
        ("1 %, 100%", "one percent, one hundred percent"),
    ],
)
def test_digits_are_spelled_out_where_there_are_none(written: str, said: str) -> None:
    assert write_out(written, lambda one: _is_letter(one) or one in ",.").split() == said.split()


@given(st.integers(0, 10**15 - 1))
def test_a_number_in_words_is_that_number(number: int) -> None:
    """What is spelled out is read back: hundreds, tens and units of each scale add up."""
    values = {number_words(str(value)): value for value in [*range(20), *range(20, 100, 10)]}
    scales = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
    total = group = 0
    for word in number_words(f"{number:,}").split():
        if word in scales:
            total, group = total + group * scales[word], 0
        else:
            group = group * 100 if word == "hundred" else group + values[word]
    assert total + group == number


@given(
    st.text(
        st.sampled_from("0123456789.,$\u20ac%\u00b0C#+-=&@*~ \u2013\u00bd\u00b2kMst\u00a7\n"), max_size=60
    )
)
def test_no_sign_of_the_list_is_left(text: str) -> None:
    written = write_out(text, lambda one: _is_letter(one) or one in ".,")
    assert not set(written) & set("%+=&@\u00b0\u00bd0123456789")
