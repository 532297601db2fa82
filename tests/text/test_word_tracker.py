"""Words while they are being said."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.text.pieces import PieceReader
from moshi_agent.text.word_tracker import TimedWord, WordTracker
from tests.text_tokenizers import PADDING, byte_tokenizer, shipped_tokenizer

FRAME_S = 0.08


def piece(text: str) -> int:
    token = shipped_tokenizer().piece_to_id(text.replace(" ", "\u2581"))
    assert token not in (0, PADDING)
    return token


class Speech:
    """A bot whose text is `ahead` frames before its sound."""

    def __init__(self, ahead: int = 0) -> None:
        self.words = WordTracker(shipped_tokenizer(), FRAME_S)
        self.ahead = ahead
        self.frame = 0

    def says(self, text: str | None, audible: bool = True) -> list[TimedWord]:
        """One frame; text None is padding."""
        token = PADDING if text is None else piece(text)
        written = self.words.add(token, self.frame + self.ahead)
        assert written == (text or "")
        complete = self.words.hear(self.frame, audible)
        self.frame += 1
        return complete

    def is_silent(self, frames: int) -> list[TimedWord]:
        return [word for _ in range(frames) for word in self.says(None, audible=False)]


def test_a_word_is_complete_when_the_next_begins() -> None:
    """Its end is that start, and pieces without a space belong to it."""
    bot = Speech()
    assert bot.says(" he") == bot.says("ll") == bot.says("o") == bot.says(None) == []
    assert bot.says(" the") == [TimedWord("hello", 0.0, 0.32)]


def test_a_word_is_complete_when_the_output_falls_silent() -> None:
    """Its end is the start of the first silent frame, and it is given there, once."""
    bot = Speech()
    assert bot.says(" the") == bot.says(None) == bot.says(None) == []
    assert bot.says(None, audible=False) == [TimedWord("the", 0.0, 0.24)]
    assert bot.is_silent(20) == []
    assert bot.words.finish(bot.frame) == []


def test_silence_before_its_first_sound_does_not_end_a_word() -> None:
    """Text comes a little before sound."""
    bot = Speech()
    assert bot.says(" the", audible=False) == bot.is_silent(2) == bot.says(None) == []
    assert bot.says(None, audible=False) == [TimedWord("the", 0.0, 0.32)]


def test_a_word_that_is_never_heard_lasts_a_second() -> None:
    """It is given as soon as the second has passed."""
    bot = Speech()
    assert bot.says(" the", audible=False) == bot.is_silent(11) == []
    assert bot.is_silent(1) == [TimedWord("the", 0.0, 1.0)]


def test_a_word_lasts_a_second_at_most() -> None:
    """A late next word does not stretch it, and a sound that goes on belongs to nothing."""
    bot = Speech()
    complete = [bot.says(" the"), *(bot.says(None) for _ in range(20)), bot.says(" the", audible=False)]
    assert complete == [[]] * 12 + [[TimedWord("the", 0.0, 1.0)]] + [[]] * 9


def test_the_sound_before_a_word_is_not_the_word() -> None:
    """Text two frames ahead: the end of the word before does not end the word that is written already."""
    bot = Speech(ahead=2)
    assert bot.says(" a") == bot.says(None) == bot.says(" the") == []  # `a` sounds now, `the` in two frames
    assert bot.says(None, audible=False) == [TimedWord("a", 0.16, 0.24)]
    assert bot.says(None) == bot.says(None) == []
    assert bot.is_silent(1) == [TimedWord("the", 0.32, 0.48)]


def test_a_word_is_given_with_its_last_frame() -> None:
    """Where the next word is written ahead nobody waits for it to begin."""
    bot = Speech(ahead=2)
    assert bot.says(" a") == bot.says(None) == bot.says(" the") == []
    assert bot.says(None) == [TimedWord("a", 0.16, 0.32)]


def test_a_next_word_written_ahead_does_not_hide_an_earlier_silence() -> None:
    """Whichever is first: the silence ends the word, though the next word's start is known before it."""
    bot = Speech(ahead=2)
    assert bot.says(" a", audible=False) == bot.is_silent(1) == bot.says(None) == bot.says(" the") == []
    assert bot.says(None, audible=False) == [TimedWord("a", 0.16, 0.32)]


def test_a_silence_waits_for_the_rest_of_a_word_that_is_being_written() -> None:
    """Its pieces come frame by frame, also over a gap in its sound; padding ends them."""
    bot = Speech()
    assert bot.says(" he") == bot.says("ll", audible=False) == bot.says("o") == []
    assert bot.says(None) == [TimedWord("hello", 0.0, 0.08)]


def test_a_late_piece_belongs_to_a_word_that_still_sounds() -> None:
    """And is a word of its own after one that is complete."""
    bot = Speech()
    assert bot.says(" the") == bot.says(None) == bot.says(".") == []
    assert bot.is_silent(2) == [TimedWord("the.", 0.0, 0.24)]
    assert bot.says(".") == []
    assert bot.is_silent(2) == [TimedWord(".", 0.4, 0.48)]


def test_a_space_by_itself_begins_a_word() -> None:
    """It ends the word before, and is no word without letters after it."""
    bot = Speech()
    assert bot.says(" the") == []
    assert bot.says(" ") == [TimedWord("the", 0.0, 0.08)]
    assert bot.says("b") == bot.says("e") == []
    assert bot.says(" ") == [TimedWord("be", 0.08, 0.32)]
    assert bot.is_silent(20) == [] and bot.words.finish(bot.frame) == []


def test_the_end_gives_the_words_that_have_begun() -> None:
    """A word that was written but whose sound was still to come has not been said."""
    bot = Speech(ahead=2)
    assert bot.says(" the") == bot.says(None) == bot.says(" a") == []
    assert bot.words.finish(bot.frame) == [TimedWord("the", 0.16, 0.24)]
    assert bot.words.finish(bot.frame) == []


def test_words_can_be_looked_at_before_they_are_complete() -> None:
    """They last until now, those that have not begun are not there, and nothing changes."""
    bot = Speech(ahead=2)
    assert bot.says(" the") == bot.says(None) == bot.says(" a") == []
    assert bot.words.unfinished(2) == []
    assert bot.words.unfinished(bot.frame) == [TimedWord("the", 0.16, 0.24)]
    assert bot.says(None) == [TimedWord("the", 0.16, 0.32)]


def test_a_character_cut_short_by_the_end_is_in_the_last_word() -> None:
    words, tokenizer = WordTracker(byte_tokenizer(), FRAME_S), byte_tokenizer()
    for frame, text in enumerate(["\u2581the", "<0xC3>"]):
        words.add(tokenizer.piece_to_id(text), frame)
        assert words.hear(frame, True) == []
    assert words.finish(2) == [TimedWord("the\ufffd", 0.0, 0.16)]


def test_bytes_of_a_character_keep_a_word_open() -> None:
    """A frame within a character writes no text, and yet the word goes on."""
    words, tokenizer = WordTracker(byte_tokenizer(), FRAME_S), byte_tokenizer()
    tokens = tokenizer.encode("\u20ac")
    for frame, token in enumerate(tokens):
        words.add(token, frame)
        assert words.hear(frame, audible=frame == 0) == []
    words.add(PADDING, len(tokens))
    assert words.hear(len(tokens), False) == [TimedWord("\u20ac", 0.0, 0.08)]


def test_without_a_tokenizer_there_are_no_words() -> None:
    words = WordTracker(None, FRAME_S)
    assert words.add(50, 0) == "" and words.hear(0, True) == words.finish(1) == []


class Frame(NamedTuple):
    token: int
    audible: bool


FRAMES = st.lists(
    st.builds(Frame, st.one_of(st.just(PADDING), st.integers(0, 299)), st.booleans()), max_size=60
)


def _given_out(words: WordTracker, frames: list[Frame], first: int, ahead: int) -> list[TimedWord]:
    complete: list[TimedWord] = []
    for frame, (token, audible) in enumerate(frames, first):
        words.add(token, frame + ahead)
        now = words.hear(frame, audible)
        assert all(word.end <= (frame + 1) * FRAME_S + 1e-6 for word in now)
        assert all(frame * FRAME_S < word.start + 1.0 for word in now)
        complete += now
    return complete


@given(FRAMES, st.integers(0, 2))
def test_nothing_is_lost_doubled_or_out_of_order(frames: list[Frame], ahead: int) -> None:
    """The words are all that was written, each given within a second, none over another."""
    words, reader = WordTracker(byte_tokenizer(), FRAME_S), PieceReader(byte_tokenizer())
    written = "".join(reader.read(frame.token) for frame in frames) + reader.flush()
    complete = _given_out(words, frames, 0, ahead) + words.finish(len(frames) + ahead)
    assert "".join(word.word for word in complete) == written.replace(" ", "")
    assert all(0 <= word.end - word.start <= 1 + 1e-6 for word in complete)
    for word, following in pairwise(complete):
        assert word.end <= following.start


@given(FRAMES, st.integers(0, 60), st.integers(0, 2))
def test_a_tracker_restored_from_json_goes_on(frames: list[Frame], pause: int, ahead: int) -> None:
    """At any frame."""
    whole, before, after = (WordTracker(byte_tokenizer(), FRAME_S) for _ in range(3))
    first = _given_out(before, frames[:pause], 0, ahead)
    after.load(json.loads(json.dumps(before.save())))
    second = _given_out(after, frames[pause:], min(pause, len(frames)), ahead)
    assert first + second == _given_out(whole, frames, 0, ahead)
    assert after.finish(len(frames)) == whole.finish(len(frames))


@pytest.mark.parametrize("audible", [True, False])
def test_a_model_that_never_stops_writing_fills_no_memory(audible: bool) -> None:
    """Open words are those of about a second, however long the text goes on."""
    words = WordTracker(shipped_tokenizer(), FRAME_S)
    for frame in range(2000):
        words.add(piece("o"), frame + 2)
        words.hear(frame, audible)
        assert len(json.dumps(words.save())) < 400
