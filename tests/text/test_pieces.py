"""Text out of tokens, one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.text.pieces import PieceReader, split_words, text_of
from tests.text_tokenizers import byte_tokenizer, shipped_tokenizer

UNICODE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=12)


def byte(value: int) -> int:
    return byte_tokenizer().piece_to_id(f"<0x{value:02X}>")


def read(tokens: list[int]) -> list[str]:
    reader = PieceReader(byte_tokenizer())
    return [*map(reader.read, tokens), reader.flush()]


def test_a_character_in_bytes_is_given_with_its_last_byte() -> None:
    """Text appears when a character is complete, and not before."""
    tokens = byte_tokenizer().encode("the \u20acuro")
    assert [byte_tokenizer().id_to_piece(token) for token in tokens[2:5]] == ["<0xE2>", "<0x82>", "<0xAC>"]
    assert read(tokens) == [" the", " ", "", "", "\u20ac", "u", "r", "o", ""]


def test_padding_does_not_break_a_character() -> None:
    """The bytes of a character may have padding between them."""
    assert read([byte(0xC3), 3, 0, byte(0xA9)]) == ["", "", "", "\u00e9", ""]


def test_a_character_cut_short_takes_nothing_with_it() -> None:
    """Malformed bytes are U+FFFD, with what follows them whole."""
    the = byte_tokenizer().encode("the")[0]
    assert read([byte(0xE2), byte(0x82), the]) == ["", "", "\ufffd the", ""]
    assert read([byte(0xE2), byte(0x41)]) == ["", "\ufffdA", ""]
    assert read([byte(0xFF), byte(0x41)]) == ["\ufffd", "A", ""]
    assert read([byte(0xF0), byte(0x9F)]) == ["", "", "\ufffd"]


@given(st.binary(max_size=24))
def test_bytes_read_one_by_one_are_the_bytes_decoded_at_once(content: bytes) -> None:
    """Any bytes whatever."""
    assert "".join(read([byte(value) for value in content])) == content.decode("utf-8", "replace")


@given(UNICODE)
def test_any_text_survives_its_tokens(text: str) -> None:
    """What is read of the tokens of a text is the text, after the space that begins it."""
    tokens = byte_tokenizer().encode(text)
    reading = "".join(read(tokens))
    assert reading.removeprefix(" ") == byte_tokenizer().decode(tokens)
    assert reading.split() == text.split()


@given(st.lists(st.integers(-2, 305)), st.integers(0, 30))
def test_a_reader_restored_from_json_goes_on(tokens: list[int], pause: int) -> None:
    """Also within a character."""
    before, after = PieceReader(byte_tokenizer()), PieceReader(byte_tokenizer())
    text = [before.read(token) for token in tokens[:pause]]
    after.load(json.loads(json.dumps(before.save())))
    assert after.in_character == before.in_character
    assert [*text, *map(after.read, tokens[pause:]), after.flush()] == read(tokens)


@pytest.mark.parametrize("token", [0, 1, 2, 3, -2, 10_000])
def test_special_tokens_write_nothing(token: int) -> None:
    """Padding, begin, end, unknown and ids beyond the vocabulary."""
    assert PieceReader(shipped_tokenizer()).read(token) == ""
    assert PieceReader(byte_tokenizer()).read(token) == ""


def test_without_a_tokenizer_there_is_no_text() -> None:
    assert PieceReader(None).read(50) == ""


def test_words_begin_at_spaces() -> None:
    """The first part goes on with the word before, and a word may be empty still."""
    assert split_words("llo") == ("llo", [])
    assert split_words(" the") == ("", ["the"])
    assert split_words(" ") == ("", [""])
    assert split_words("\ufffd the") == ("\ufffd", ["the"])
    assert split_words("") == ("", [])


def test_a_whole_stream_is_read_at_once() -> None:
    """Padding, begin, end and ids that the tokenizer has not write nothing; half a character does."""
    tokenizer = shipped_tokenizer()
    tokens = [3, 1, *tokenizer.encode("Hello there."), 0, 2, -2, 10_000]
    assert text_of(tokenizer, tokens) == "Hello there."
    assert text_of(byte_tokenizer(), [*byte_tokenizer().encode("the"), byte(0xE2)]) == "the\ufffd"
    assert text_of(None, tokens) == ""
