"""`dtype="int4"`: the temporal transformer's weights in four bits, those of the other layers in eight."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from moshi_agent import Conversation, load_checkpoint
from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import frames_of
from moshi_agent.checkpoint.kyutai.save import save_kyutai
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.nn.int4_product import quantize_groups
from moshi_agent.nn.linear import Int4Linear, Int8Linear, Linear
from moshi_agent.questions import find_question, sample_questions
from tests.checkpoint.conftest import TOKENIZER


def test_every_layer_is_the_rounded_one() -> None:
    """And embeddings and norms are as they were."""
    floats, rounded = load_checkpoint("tiny").lm, load_checkpoint("tiny", dtype="int4").lm
    assert floats is not None and rounded is not None
    plain = dict(floats.named_modules())
    counts = {Int4Linear: 0, Int8Linear: 0, Linear: 0}
    for name, layer in rounded.named_modules():
        if isinstance(layer, Linear):
            counts[type(layer)] += 1
            assert isinstance(layer, Int4Linear) == name.startswith("transformer.")
        if isinstance(layer, Int4Linear):
            halves, scales = quantize_groups(plain[name].weight)
            assert torch.equal(layer.weight, halves) and torch.equal(layer.weight_scales, scales)
    assert counts[Int4Linear] >= 16 and counts[Int8Linear] > 8
    assert torch.equal(rounded.text_emb.weight, floats.text_emb.weight)


@pytest.mark.parametrize("pack", [None, "auto"])
def test_the_answer_is_right(pack: Literal["auto"] | None) -> None:
    """The words of the float weights, by greedy choice, plain and packed for a CPU."""
    question = read_audio(find_question("Hello there.", sample_questions()).path)
    texts: list[str] = []
    for dtype in (None, "int4"):
        conversation = Conversation(load_checkpoint("tiny", dtype=dtype, pack=pack), greedy=True)
        for _ in conversation.stream(frames_of(question, tail_s=2.0)):
            pass
        texts.append(conversation.text)
    assert texts[0] and texts[1] == texts[0]


def test_it_cannot_be_written(tmp_path: Path) -> None:
    checkpoint = load_checkpoint("tiny", dtype="int4")
    assert checkpoint.lm is not None
    with pytest.raises(CheckpointError, match="no format has our int4 weights"):
        save_kyutai(tmp_path / "out", checkpoint.mimi, checkpoint.lm, tmp_path / "tokenizer")


def test_weights_that_are_int8_already_are_refused(tmp_path: Path) -> None:
    """What was lost stays lost; the float checkpoint makes better four bits, and its owner is told so."""
    rounded = load_checkpoint("tiny", dtype="int8")
    save_kyutai(tmp_path, rounded.mimi, rounded.conversation_lm(), TOKENIZER)
    with pytest.raises(
        ConfigError, match=r"int8 already; accepted: dtype='int8', or the checkpoint in bfloat"
    ):
        load_checkpoint(tmp_path, dtype="int4")
    lm = load_checkpoint(tmp_path, dtype="int8").conversation_lm()
    assert torch.equal(lm.text_linear.weight, rounded.conversation_lm().text_linear.weight)
