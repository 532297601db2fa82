"""The built-in model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moshi_agent.training.tiny.answers import aligned_tokens
from moshi_agent.training.tiny.phrases import load_phrases
from moshi_agent.training.tiny.speech import SpokenWord
from moshi_agent.training.tiny.tokenizer import (
    END_OF_PADDING,
    PADDING,
    VOCABULARY,
    load_tokenizer,
    train_tokenizer,
    word_pieces,
)


def test_the_shipped_tokenizer_gives_every_phrase_back() -> None:
    """All that the bot can say goes through the tokens unchanged, with no unknown piece."""
    tokenizer = load_tokenizer()
    for text in load_phrases().spoken:
        ids = [token for word in word_pieces(tokenizer, text) for token in word]
        assert tokenizer.decode(ids) == text
        assert min(ids) > PADDING
        assert len(ids) <= 2.5 * len(text.split())


def test_special_tokens_are_those_of_the_family() -> None:
    """End of padding 0, begin 1, end 2, padding 3."""
    tokenizer = load_tokenizer()
    special = (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id())
    assert special == (0, 1, 2, 3)
    assert tokenizer.get_piece_size() == VOCABULARY


def test_training_again_gives_the_same_tokenizer(tmp_path: Path) -> None:
    """The same phrases, the same bytes. The shipped one is older than some of the phrases."""
    files = [tmp_path / "first.model", tmp_path / "second.model"]
    for file in files:
        train_tokenizer(file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_words_lie_in_the_frames_where_they_start() -> None:
    """Pieces begin in the word's frame and push the next word on; padding ends before them."""
    words = (
        SpokenWord(word="Hello", start=0.0, end=0.2),
        SpokenWord(word="to", start=0.17, end=0.3),
        SpokenWord(word="you", start=0.81, end=1.0),
    )
    tokens = aligned_tokens(words, [[10, 11, 12], [20], [30]], frames=13)
    pad, end = PADDING, END_OF_PADDING
    expected = [end, 10, 11, 12, 20, pad, pad, pad, pad, pad, end, 30, pad, pad]
    assert np.array_equal(tokens, expected)
