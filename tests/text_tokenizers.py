"""Sentencepiece models for tests: the shipped one, that of small models, and one that falls back to bytes."""

from __future__ import annotations

import io
from functools import cache
from importlib import resources
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

END_OF_PADDING, PADDING = 0, 3
SMALL_TOKENIZER = Path(__file__).parent / "golden" / "tokenizer_spm.model"


@cache
def shipped_tokenizer() -> SentencePieceProcessor:
    """The tokenizer of `tiny`."""
    file = resources.files("moshi_agent") / "assets" / "tiny" / "tokenizer_spm.model"
    return SentencePieceProcessor(model_proto=file.read_bytes())


@cache
def small_tokenizer() -> SentencePieceProcessor:
    """A tokenizer of 400 pieces, for models with few of them."""
    return SentencePieceProcessor(model_proto=SMALL_TOKENIZER.read_bytes())


@cache
def byte_tokenizer() -> SentencePieceProcessor:
    """300 pieces, of them one for each byte, with the special tokens of Moshi."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "hello there you"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        unk_id=END_OF_PADDING,
        bos_id=1,
        eos_id=2,
        pad_id=PADDING,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    return SentencePieceProcessor(model_proto=model.getvalue())
