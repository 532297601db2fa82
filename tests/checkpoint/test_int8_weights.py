"""`dtype="int8"`: any checkpoint's weights, rounded one layer after the other while they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moshi_agent import Conversation, DeviceFull, load_checkpoint
from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import frames_of
from moshi_agent.checkpoint import room
from moshi_agent.errors import ConfigError
from moshi_agent.nn.linear import Int8Linear, Linear, LoraLinear, quantize_rows
from moshi_agent.questions import find_question, sample_questions


def test_every_layer_that_can_be_is_the_rounded_one() -> None:
    """And nothing else: embeddings, norms and the codec are as they were."""
    floats, ints = load_checkpoint("tiny").lm, load_checkpoint("tiny", dtype="int8").lm
    assert floats is not None and ints is not None
    plain, rounded = dict(floats.named_modules()), dict(ints.named_modules())
    count = 0
    for name, layer in rounded.items():
        if isinstance(layer, Int8Linear):
            weight, scale = quantize_rows(plain[name].weight)
            assert torch.equal(layer.weight, weight) and torch.equal(layer.weight_scb, scale)
            assert (layer.dense_weight() - plain[name].weight).abs().max() <= scale.max() / 127 / 2 + 1e-6
            count += 1
        elif isinstance(layer, Linear):
            assert layer.bias is not None or layer.in_features < 128
    assert count > 20
    assert torch.equal(ints.text_emb.weight, floats.text_emb.weight)
    assert sum(one.nbytes for one in ints.parameters()) < 0.7 * sum(one.nbytes for one in floats.parameters())


@pytest.mark.parametrize("is_fused", [True, False])
def test_low_rank_updates_are_in_the_rounded_weight_or_beside_a_plain_one(
    tmp_path: Path, is_fused: bool
) -> None:
    """And the other layers are int8 either way."""
    plain = load_checkpoint("tiny").lm
    assert plain is not None
    tuned_layer, outputs, inputs = "text_linear", *plain.text_linear.weight.shape
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, inputs, generator=generator), torch.randn(outputs, 4, generator=generator)
    save_file({f"{tuned_layer}.lora_A.weight": a, f"{tuned_layer}.lora_B.weight": b}, tmp_path / "lora")
    lm = load_checkpoint("tiny", dtype="int8", lora=tmp_path / "lora", fuse_lora=is_fused).lm
    assert lm is not None
    layers, whole = dict(lm.named_modules()), plain.text_linear.weight + 2 * b @ a
    if is_fused:
        weight, scale = quantize_rows(whole)
        assert isinstance(layers[tuned_layer], Int8Linear)
        # The sum may end in another last bit, and so a number that is half-way in the next step.
        assert (layers[tuned_layer].weight.int() - weight.int()).abs().max() <= 1
        torch.testing.assert_close(layers[tuned_layer].weight_scb, scale)
    else:
        assert isinstance(layers[tuned_layer], LoraLinear)
        torch.testing.assert_close(layers[tuned_layer].whole_weight(), whole)
    others = [name for name, layer in layers.items() if isinstance(layer, Int8Linear) and name != tuned_layer]
    assert len(others) > 20


def test_float8_would_move_the_weights_three_times_as_far() -> None:
    """By as many bytes, with a scale for each row as well: so there is no such type to choose."""
    lm = load_checkpoint("tiny").conversation_lm()
    weight = lm.get_submodule("transformer.layers.0.gating.linear_in").get_parameter("weight").detach()
    rounded, largest = quantize_rows(weight)
    steps, scales = largest[:, None] / 127, largest[:, None] / torch.finfo(torch.float8_e4m3fn).max
    by_int8 = (rounded.float() * steps - weight).norm()
    by_float8 = ((weight / scales).to(torch.float8_e4m3fn).float() * scales - weight).norm()
    assert by_float8 > 3 * by_int8


def test_a_row_of_zeros_stays_one_and_extremes_are_kept() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [1e-30, -2e-30, 0.0], [3.0, -4.0, 1.0]])
    rounded, largest = quantize_rows(weight)
    assert largest.tolist() == [0.0, pytest.approx(2e-30), 4.0]
    assert rounded[0].tolist() == [0, 0, 0] and rounded[2].tolist() == [95, -127, 32]
    assert rounded[1].tolist() == [64, -127, 0]


def test_the_answer_is_right_before_and_after() -> None:
    """Words of the built-in model, by greedy choice, with float and with int8 weights."""
    question = read_audio(find_question("Hello there.", sample_questions()).path)
    texts: list[str] = []
    for dtype in (None, "int8"):
        conversation = Conversation(load_checkpoint("tiny", dtype=dtype), greedy=True)
        for _ in conversation.stream(frames_of(question, tail_s=2.0)):
            pass
        texts.append(conversation.text)
    assert texts[0] and texts[1] == texts[0]


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="accepted: float32, bfloat16, float16, int8, int4"):
        load_checkpoint("tiny", dtype="int5")
    with pytest.raises(ConfigError, match="pack='float32' with dtype='int8'"):
        load_checkpoint("tiny", dtype="int8", pack="float32")
    for dtype in (torch.int8, torch.float8_e4m3fn, "float8"):
        with pytest.raises(ConfigError, match=r"dtype=.*; accepted: float32, bfloat16, float16, int8, int4"):
            load_checkpoint("tiny", dtype=dtype)


def test_weights_without_room_are_refused_before_they_are_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4_100_000_000, 8_000_000_000))
    weights = [(torch.empty(7_700_000_000, device="meta"), torch.bfloat16)]
    with pytest.raises(DeviceFull, match=r"x need 15.4 GB, 4.1 GB are free on cuda:0; accepted: dtype="):
        room.check_room("x", weights, "cuda:0", "dtype='int8'")
    room.check_room("x", weights, "cpu", "")
    room.check_room("x", [(weights[0][0][:4_000_000_000], torch.int8)], "cuda", "")
