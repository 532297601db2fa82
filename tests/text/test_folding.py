"""Text as phones and language models write it, in the characters that a tokenizer knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.errors import InputError
from moshi_agent.text.folding import fold
from moshi_agent.text.pieces import pieces_of
from tests.text_tokenizers import byte_tokenizer, shipped_tokenizer

ASCII = st.text(st.characters(max_codepoint=127, exclude_categories=["Cc"]), max_size=20)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("It\u2019s nice", "It's nice"),
        ("\u201cHello\u201d \u2018there\u2019", "Hello 'there'"),
        ("Well\u2014no, two\u2013three", "Well no, two three"),
        ("Wait\u2026 what?", "Wait... what?"),
        ("five\u00a0times\u202ftwo", "five times two"),
        ("Hello there. \U0001f642", "Hello there."),
        (
            "yes \U0001f468\u200d\U0001f469\u200d\U0001f467 and 1\ufe0f\u20e3 \U0001f1eb\U0001f1f7",
            "yes and 1",
        ),
        ("na\u00efve caf\u00e9, e\u0301", "naive cafe, e"),
        ("\ufb01ne\u00ad \u200bday", "fine day"),
        ("**bold** (and) [so] on", "bold and so on"),
        ("hello\U0001f642there", "hello there"),
        ("\u00bd an hour, 10\u00b2 of it, H\u2082O", "half an hour, 10 squared of it, H2O"),
        ("one\u2044two \u2022 three\u2043four\u3001five", "one two three four five"),
        ("It\u02b9s \u02bbhere\u02bc", "It's 'here'"),
        ("me_here, that|this, more\\less", "me here, that this, more less"),
        ("\u00deor, \u0110or\u0111e, \u0131n", "Thor, Dorde, in"),
        ("one\u200btwo\u2060three", "one twothree"),
    ],
)
def test_text_is_said_in_the_characters_there_are(written: str, said: str) -> None:
    assert pieces_of(shipped_tokenizer(), written) == pieces_of(shipped_tokenizer(), said)


def test_what_a_tokenizer_knows_stays() -> None:
    """A tokenizer with pieces of bytes keeps typographic quotes; an emoji is left out all the same."""
    tokens = pieces_of(byte_tokenizer(), "It\u2019s \u4f60 \U0001f642")
    assert byte_tokenizer().decode(tokens) == "It\u2019s \u4f60"


@pytest.mark.parametrize("text", ["\U0001f642", "\u2014", "\u200b", '"'])
def test_a_text_of_which_nothing_is_left_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        pieces_of(shipped_tokenizer(), text)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_is_said_or_refused_by_name(text: str) -> None:
    try:
        assert pieces_of(shipped_tokenizer(), text)
    except InputError as error:
        assert "cannot be said" in str(error)


@given(ASCII)
def test_known_characters_are_left_alone(text: str) -> None:
    assert fold(text, lambda one: True) == text
