"""Words out of pieces."""

from __future__ import annotations

import pytest
from sentencepiece import SentencePieceProcessor

from moshi_agent.text.transcript import TimedWord, Transcript
from tests.text_tokenizers import byte_tokenizer, shipped_tokenizer


@pytest.fixture
def tokenizer() -> SentencePieceProcessor:
    return shipped_tokenizer()


def test_pieces_become_words_at_their_frames(tokenizer: SentencePieceProcessor) -> None:
    """The pieces of a sentence, padding between them, are its words, each where its first piece stands."""
    sentence = "My name is Moshi, and I am a tiny talking model."
    transcript, frame, starts = Transcript(tokenizer, 12.5), 10, []
    for word in sentence.split():
        pieces = tokenizer.encode(word)
        starts.append(frame / 12.5)
        for token in [*pieces, 3, 0]:
            transcript.add(token, frame)
            frame += 1
    assert transcript.text == sentence
    assert [word.word for word in transcript.words] == sentence.split()
    assert [word.start for word in transcript.words] == pytest.approx(starts)
    assert all(word.start < word.end <= word.start + 1.001 for word in transcript.words)


def test_a_word_ends_where_the_next_begins(tokenizer: SentencePieceProcessor) -> None:
    """Ends are the next starts, and at most a second away."""
    transcript = Transcript(tokenizer, 12.5)
    tokens = [tokenizer.encode(word)[0] for word in ("the", "the")]
    transcript.add(tokens[0], 0)
    transcript.add(tokens[1], 5)
    first, second = transcript.words
    assert first == TimedWord("the", 0.0, 0.4)
    assert second == TimedWord("the", 0.4, 1.4)


def test_control_tokens_and_nonsense_are_no_text(tokenizer: SentencePieceProcessor) -> None:
    """Padding, begin, end, unknown and ids beyond the vocabulary add nothing."""
    transcript = Transcript(tokenizer, 12.5)
    assert [transcript.add(token, 0) for token in (0, 1, 2, 3, -2, 10_000)] == [""] * 6
    assert transcript.text == "" and transcript.words == []
    assert Transcript(None, 12.5).add(50, 0) == ""


def test_a_late_text_stream_is_moved_back(tokenizer: SentencePieceProcessor) -> None:
    """Speech recognition writes a word some time after it was said."""
    transcript = Transcript(tokenizer, 12.5, delay_s=0.5)
    transcript.add(tokenizer.encode("the")[0], 10)
    assert transcript.words[0].start == pytest.approx(0.3)


def test_a_space_by_itself_begins_a_word(tokenizer: SentencePieceProcessor) -> None:
    """Some words are a space and then pieces without one."""
    transcript = Transcript(tokenizer, 12.5)
    space, the = tokenizer.piece_to_id("\u2581"), tokenizer.encode("the")[0]
    letters = [tokenizer.piece_to_id(letter) for letter in "be"]
    for frame, token in enumerate([the, space, *letters]):
        transcript.add(token, frame)
    assert [word.word for word in transcript.words] == ["the", "be"]
    assert transcript.text == "the be"


def test_a_word_of_byte_pieces_begins_at_its_space() -> None:
    """Characters come when they are complete, the word's start does not move."""
    transcript = Transcript(byte_tokenizer(), 12.5)
    for frame, token in enumerate(byte_tokenizer().encode("the \u20acuro")):
        transcript.add(token, frame)
    assert transcript.text == "the \u20acuro"
    assert transcript.words == [TimedWord("the", 0.0, 0.08), TimedWord("\u20acuro", 0.08, 1.08)]


def test_a_broken_character_ends_the_word_before_the_next() -> None:
    """The piece that shows a character to be cut short begins a word of its own."""
    transcript, tokenizer = Transcript(byte_tokenizer(), 12.5), byte_tokenizer()
    for frame, piece in enumerate(["\u2581the", "<0xE2>", "\u2581the"]):
        transcript.add(tokenizer.piece_to_id(piece), frame)
    assert transcript.text == "the\ufffd the"
    assert [(word.word, word.start) for word in transcript.words] == [("the\ufffd", 0.0), ("the", 0.16)]
