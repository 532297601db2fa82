"""Forward passes: caches, padded rows, labels, gradients, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.errors import InputError
from moshi_agent.hf import MoshiCache, MoshiForCausalLM, MoshiForConditionalGeneration
from moshi_agent.hf.losses import delayed


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 60, [30, 30], [7, 1, 50, 2]], ids=["steps", "halves", "uneven"])
def test_with_a_cache_any_chunks_give_the_same_logits(decoder: MoshiForCausalLM, chunks: list[int]) -> None:
    """Over one and a half windows of 40 positions."""
    tokens = torch.randint(48, (2, 60), generator=torch.Generator().manual_seed(1))
    whole = decoder(tokens, use_cache=False)
    assert whole.past_key_values is None
    cache = MoshiCache()
    parts = [decoder(part, past_key_values=cache).logits for part in tokens.split(chunks, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), whole.logits, atol=1e-4)
    assert cache.get_seq_length() == 60


@torch.no_grad()
def test_a_row_padded_on_the_left_answers_as_it_does_alone(decoder: MoshiForCausalLM) -> None:
    tokens = torch.randint(48, (2, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, :3] = 0
    out = decoder(tokens, attention_mask=mask, output_hidden_states=True)
    alone = decoder(tokens[1:, 3:], output_hidden_states=True)
    assert torch.allclose(out.logits[1:, 3:], alone.logits, atol=1e-5)
    assert torch.allclose(out.hidden_states[1][1:, 3:], alone.hidden_states[1], atol=1e-5)
    longer = torch.ones(2, 9, dtype=torch.long)
    longer[:, :8] = mask
    following = decoder(tokens[:, :1], attention_mask=longer, past_key_values=out.past_key_values)
    follows_alone = decoder(tokens[1:, :1], past_key_values=alone.past_key_values)
    assert torch.allclose(following.logits[1:], follows_alone.logits, atol=1e-5)


@torch.no_grad()
def test_padding_on_the_right_changes_nothing_before_it(decoder: MoshiForCausalLM) -> None:
    tokens = torch.randint(48, (2, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    out = decoder(tokens, attention_mask=mask)
    assert out.past_key_values is None
    assert torch.allclose(out.logits[1:, :5], decoder(tokens[1:, :5]).logits, atol=1e-5)


def test_gradients_go_through_a_cache(decoder: MoshiForCausalLM) -> None:
    """As they do without one."""
    tokens = torch.arange(10)[None]
    gradients = []
    for use_cache in (True, False):
        decoder.zero_grad()
        F.cross_entropy(decoder(tokens, use_cache=use_cache).logits[0], tokens[0]).backward()
        gradients.append(decoder.lm.transformer.layers[0].self_attn.in_projs[0].weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_training_step_lowers_the_loss(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor]
) -> None:
    """Labels are the inputs: they are shifted, and the audio is delayed, inside."""
    codes = moshi.build_delay_pattern_mask(streams["moshi_audio_codes"], 32, 32)[0]
    labels = {"text_labels": streams["input_ids"], "audio_labels": streams["moshi_audio_codes"]}
    moshi.train().gradient_checkpointing_enable()
    moshi.freeze_audio_encoder()
    optimizer = torch.optim.SGD([one for one in moshi.parameters() if one.requires_grad], lr=0.02)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        out = moshi(**streams | {"moshi_audio_codes": codes}, **labels)
        assert out.past_key_values is None
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert all(one.grad is None for one in moshi.audio_encoder.parameters())


@torch.no_grad()
def test_the_loss_is_that_of_the_language_models_own_forward(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor]
) -> None:
    """Which applies the delays itself and gives logits at the positions of the codes they predict."""
    names = ("input_ids", "moshi_audio_codes", "user_audio_codes")
    text, moshi_codes, user_codes = (streams[name] for name in names)
    codes = torch.cat([text[:, None], moshi_codes, user_codes], dim=1)
    out = moshi.lm(codes)
    text_loss = F.cross_entropy(out.text_logits[:, 0].flatten(0, 1), text.flatten())
    depth_loss = F.cross_entropy(out.logits[out.mask], codes[:, 1:5][out.mask])

    initial = moshi.get_unconditional_inputs(2)
    before = [torch.cat([initial[name], streams[name]], dim=-1) for name in names]
    fed = [before[0], delayed(before[1], 32), delayed(before[2], 32)]
    both = moshi(
        **dict(zip(names, fed, strict=True)),
        text_labels=torch.cat([torch.full((2, 1), -100), text], dim=1),
        audio_labels=before[1],
    )
    assert torch.allclose(both.depth_loss, depth_loss, atol=1e-5)
    assert torch.allclose(both.loss, text_loss + depth_loss, atol=1e-5)


@torch.no_grad()
def test_audio_labels_count_without_text_labels(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor]
) -> None:
    audio = moshi(**streams, audio_labels=streams["moshi_audio_codes"])
    both = moshi(**streams, audio_labels=streams["moshi_audio_codes"], text_labels=streams["input_ids"])
    assert torch.equal(audio.loss, both.depth_loss)
    text = moshi(**streams, text_labels=streams["input_ids"])
    assert torch.allclose(both.loss, text.loss + audio.loss)


@torch.no_grad()
def test_labels_of_minus_100_do_not_count(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor]
) -> None:
    labels = streams["input_ids"].clone()
    labels[1] = -100
    first = {name: tensor[:1] for name, tensor in streams.items()}
    one, both = moshi(**first, text_labels=labels[:1]), moshi(**streams, text_labels=labels)
    assert torch.allclose(one.loss, both.loss, atol=1e-5)
    audio = streams["moshi_audio_codes"].clone()
    audio[1] = -100
    assert moshi(**streams, text_labels=labels, audio_labels=audio).depth_loss.isfinite()


@torch.no_grad()
def test_embeddings_stand_for_all_streams(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor]
) -> None:
    codes = torch.cat([streams["moshi_audio_codes"], streams["user_audio_codes"]], dim=1)
    embeds = moshi.lm.embed(torch.cat([streams["input_ids"][:, None], codes], dim=1))
    out = moshi(inputs_embeds=embeds)
    assert torch.equal(out.logits, moshi(**streams).logits)
    as_tuple = moshi(inputs_embeds=embeds, return_dict=False)
    assert torch.equal(as_tuple[0], out.logits) and len(as_tuple) == 3


@torch.no_grad()
def test_a_stream_that_is_not_given_adds_nothing(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor]
) -> None:
    text = moshi(input_ids=streams["input_ids"])
    assert torch.allclose(text.logits, moshi.decoder(streams["input_ids"]).logits, atol=1e-5)


MASK_WITH_HOLE = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 1]] * 2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            {"input_ids": torch.ones(2, 8, dtype=torch.long)},
            "not synchronised .* input_ids 2 x 8, moshi 2 x 9",
        ),
        ({"input_ids": torch.ones(1, 9, dtype=torch.long)}, "input_ids 1 x 9"),
        ({"input_ids": torch.full((2, 9), 49)}, "input_ids from 49"),
        ({"moshi_audio_codes": torch.zeros(2, 3, 9, dtype=torch.long)}, r"\[2, 3, 9\]"),
        ({"user_audio_codes": torch.full((2, 4, 9), 33)}, "user_audio_codes from 33"),
        ({"text_labels": torch.ones(2, 8, dtype=torch.long)}, r"\[2, 8\]; accepted: \[2, 9\]"),
        ({"text_labels": torch.full((2, 9), 48)}, "label 48"),
        ({"audio_labels": torch.ones(2, 9, dtype=torch.long)}, r"\[2, 9\]; accepted: \[2, 4, 9\]"),
        ({"attention_mask": MASK_WITH_HOLE}, "hole"),
        ({"attention_mask": torch.ones(2, 8)}, r"\[2, 8\]; accepted: \[2, 9\]"),
        ({"output_attentions": True}, "output_attentions"),
        ({"loss_alignment": "mine"}, "'mine'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor], arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        moshi(**streams | arguments)


@torch.no_grad()
def test_calls_without_anything_are_refused(moshi, decoder) -> None:
    with pytest.raises(InputError, match="none given"):
        moshi()
    with pytest.raises(InputError, match="either input_ids or inputs_embeds"):
        decoder()
    with pytest.raises(InputError, match="logits_to_keep"):
        decoder(
            torch.ones(1, 3, dtype=torch.long), labels=torch.ones(1, 3, dtype=torch.long), logits_to_keep=1
        )
    with pytest.raises(InputError, match="1 rows"):
        cache = decoder(torch.ones(2, 3, dtype=torch.long)).past_key_values
        decoder(torch.ones(1, 3, dtype=torch.long), past_key_values=cache)
