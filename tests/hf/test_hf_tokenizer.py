"""The tokenizer, on the sentencepiece model of the built-in checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.errors import CheckpointError, InputError
from moshi_agent.hf import AutoTokenizer, MoshiTokenizer

TOKENIZER = AutoTokenizer.from_pretrained("tiny")


def test_special_tokens_are_read_where_a_text_has_them() -> None:
    assert TOKENIZER.encode("<pad>") == [3] == [TOKENIZER.pad_token_id]
    hello = TOKENIZER.encode("Hello,")
    tokens = TOKENIZER.encode("Hello,<pad><unk>I'm Moshi")
    assert tokens[: len(hello) + 2] == [*hello, 3, 0]
    assert TOKENIZER.decode(tokens) == "Hello,<pad><unk> I'm Moshi"
    assert TOKENIZER.decode(tokens, skip_special_tokens=True) == "Hello, I'm Moshi"


def test_ids_that_the_tokenizer_has_not_write_nothing() -> None:
    hello = TOKENIZER.encode("Hello there.")
    assert TOKENIZER.decode(torch.tensor([800, *hello, 3]), skip_special_tokens=True) == "Hello there."
    assert TOKENIZER.decode([3, 800]) == "<pad>"


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz ,.", min_size=1, max_size=30))
def test_plain_text_comes_back(text: str) -> None:
    words = " ".join(text.split())
    assert TOKENIZER.decode(TOKENIZER.encode(words)) == words


def test_a_batch_is_padded_and_masked() -> None:
    batch = TOKENIZER(["Hello there.", "Hi"], padding=True, return_tensors="pt")
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert batch.input_ids[1, 0] == 3 and batch.attention_mask[1, 0] == 0
    texts = TOKENIZER.batch_decode(
        batch.input_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert texts == ["Hello there.", "Hi"]
    assert TOKENIZER("Hi")["input_ids"] == TOKENIZER.encode("Hi")
    with pytest.raises(InputError, match="padding=True"):
        TOKENIZER(["Hello there.", "Hi"], return_tensors="pt")


def test_pieces_and_ids_go_both_ways() -> None:
    ids = TOKENIZER.encode("What is your name?")
    assert TOKENIZER.convert_tokens_to_ids(TOKENIZER.convert_ids_to_tokens(ids)) == ids
    assert len(TOKENIZER) == TOKENIZER.vocab_size == 800
    assert TOKENIZER.all_special_ids == [0, 1, 2, 3, 4]


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    assert MoshiTokenizer.from_pretrained(tmp_path).encode("Hello") == TOKENIZER.encode("Hello")


def test_a_checkpoint_without_one_is_an_error(hf_moshi: Path) -> None:
    with pytest.raises(CheckpointError, match="no sentencepiece model"):
        AutoTokenizer.from_pretrained(hf_moshi)
