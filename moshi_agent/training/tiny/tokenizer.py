"""The text tokenizer of the built-in model: a small sentencepiece model of what it can say."""

from __future__ import annotations

import io
import string
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import sentencepiece

from moshi_agent.training.tiny import world
from moshi_agent.training.tiny.phrases import Phrases, load_phrases
from moshi_agent.training.tiny.sentences import unknown_sentences

VOCABULARY = 800
FILE_NAME = "tokenizer_spm.model"
END_OF_PADDING, BEGIN, END, PADDING = 0, 1, 2, 3
WANTED = 4  # the model asks for a reference; no part of any word
PHRASE_WEIGHT = 400  # how often a phrase counts against one other sentence
OTHER_SENTENCES = 1500
WORLD_SENTENCES = 12_000
SEED = 5


def train_tokenizer(path: Path, phrases: Phrases | None = None) -> None:
    """Write a sentencepiece model of `VOCABULARY` pieces to `path`. The same phrases give the same bytes."""
    model = io.BytesIO()
    train = cast("Any", sentencepiece.SentencePieceTrainer).train
    train(
        sentence_iterator=_lines(phrases or load_phrases()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        unk_id=END_OF_PADDING,
        bos_id=BEGIN,
        eos_id=END,
        pad_id=PADDING,
        control_symbols="<reference>",
        required_chars=string.ascii_letters + string.digits + ".,!?'",
        normalization_rule_name="identity",
        # A comma is its own piece, so that a word is the same tokens wherever it stands.
        split_by_unicode_script=True,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def load_tokenizer(path: Path | None = None) -> sentencepiece.SentencePieceProcessor:
    """The tokenizer at `path`, or the one that ships with the built-in model."""
    processor = sentencepiece.SentencePieceProcessor()
    if path is None:
        shipped = resources.files("moshi_agent") / "assets" / "tiny" / FILE_NAME
        cast("Any", processor).load_from_serialized_proto(shipped.read_bytes())
    else:
        cast("Any", processor).load(str(path))
    return processor


def word_pieces(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> list[list[int]]:
    """The token ids of each word of `text`, words being what whitespace parts."""
    encode = cast("Any", tokenizer).encode
    return [cast("list[int]", encode(word)) for word in text.split()]


def _lines(phrases: Phrases) -> Iterator[str]:
    for _ in range(PHRASE_WEIGHT):
        yield from phrases.spoken
    yield from unknown_sentences(OTHER_SENTENCES, SEED)
    rng = np.random.default_rng(SEED)
    templates = (*world.TEMPLATES, *(answer for lookup in phrases.lookups for answer in lookup.answers))
    yield from (world.sentence(rng, templates) for _ in range(WORLD_SENTENCES))
