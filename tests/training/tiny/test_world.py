"""The closed world: its numbers and times in words, and sentences of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from moshi_agent.text.pieces import is_text
from moshi_agent.training.tiny import world
from moshi_agent.training.tiny.phrases import load_phrases, plain
from moshi_agent.training.tiny.sentences import unknown_sentences
from moshi_agent.training.tiny.tokenizer import WANTED, load_tokenizer, train_tokenizer, word_pieces


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceProcessor:
    """As the recipe trains it."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(path)
    return load_tokenizer(path)


def test_sentences_are_text_that_the_tokenizer_has_pieces_for(tokenizer: SentencePieceProcessor) -> None:
    """Most words are a piece or two; none has the piece that asks for a reference."""
    rng = np.random.default_rng(0)
    pieces = [one for _ in range(300) for one in word_pieces(tokenizer, world.sentence(rng))]
    assert np.mean([len(one) for one in pieces]) < 1.6
    assert all(is_text(tokenizer, piece) for one in pieces for piece in one)
    assert WANTED not in {piece for one in pieces for piece in one}


def test_what_asks_for_a_reference_is_no_text(tokenizer: SentencePieceProcessor) -> None:
    """Token 4 writes nothing, so that no transcript and no `say` can hold it."""
    assert not is_text(tokenizer, WANTED)
    assert tokenizer.decode([WANTED]) == ""  # pyright: ignore[reportUnknownMemberType]


def test_questions_that_are_looked_up_are_not_unknown_and_their_answers_can_be_filled() -> None:
    """No sentence that the model should not know is one that it has to hand over."""
    phrases, rng = load_phrases(), np.random.default_rng(1)
    assert len(phrases.lookups) == 10
    unknown = {plain(text) for text in unknown_sentences(3000, 5)}
    for lookup in phrases.lookups:
        assert plain(lookup.question) not in unknown
        for answer in lookup.answers:
            assert "{" not in world.filled(answer, rng)
