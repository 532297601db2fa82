"""`moshi_agent.hf` beside Transformers' own classes, used as their documents show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moshi_agent.hf import (
    AutoFeatureExtractor,
    MimiConfig,
    MimiModel,
    MoshiConfig,
    MoshiDepthConfig,
    MoshiForCausalLM,
    MoshiForConditionalGeneration,
    MoshiModel,
)
from moshi_agent.hf.features import EncodecFeatureExtractor

Check = Callable[..., None]


@pytest.fixture
def moshi(golden) -> MoshiForConditionalGeneration:
    return MoshiForConditionalGeneration.from_pretrained(golden("hf_moshi").folder / "checkpoint")


@pytest.fixture
def decoder(golden) -> MoshiForCausalLM:
    return MoshiForCausalLM.from_pretrained(golden("hf_moshi").folder / "checkpoint")


@pytest.fixture
def codec(golden) -> MimiModel:
    return MimiModel.from_pretrained(golden("hf_mimi").folder / "checkpoint")


@pytest.fixture
def peer(golden) -> Callable[[str], dict[str, Tensor]]:
    return golden("hf_use").tensors


def _streams(peer: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "input_ids": peer["text"],
        "moshi_audio_codes": peer["moshi"],
        "user_audio_codes": peer["user"],
    }


@torch.no_grad()
def test_forward_gives_the_peers_logits_and_hidden_states(moshi, peer, assert_close: Check) -> None:
    case = peer("forward")
    out = moshi(**_streams(case), output_hidden_states=True)
    assert_close(out.logits, case["logits"])
    assert_close(out.last_hidden_state, case["last_hidden_state"])
    assert_close(torch.stack(out.hidden_states), case["hidden_states"])


@torch.no_grad()
@pytest.mark.parametrize("alignment", ["model", "transformers"])
def test_the_losses_are_the_peers(moshi, peer, assert_close: Check, alignment: Any) -> None:
    """As Transformers aligns them, and as the model does: then over the peer's logits, moved by one step."""
    case, prefix = peer("forward"), "theirs" if alignment == "transformers" else "model"
    labels = {"text_labels": case["text"], "audio_labels": case["moshi"]}
    out = moshi(**_streams(case), **labels, loss_alignment=alignment)
    assert_close(out.depth_loss, case[f"{prefix}.depth_loss"])
    assert_close(out.audio_logits, case[f"{prefix}.audio_logits"])
    assert_close(out.loss, case[f"{prefix}.text_loss"] + case[f"{prefix}.depth_loss"])
    text_alone = moshi(**_streams(case), text_labels=case["text"], loss_alignment=alignment)
    assert_close(text_alone.loss, case[f"{prefix}.text_loss"])


@torch.no_grad()
def test_the_peers_loss_has_the_depth_loss_in_it(moshi, peer, assert_close: Check) -> None:
    case = peer("forward")
    assert_close(case["theirs.loss"], case["theirs.text_loss"] + case["theirs.depth_loss"])


@torch.no_grad()
def test_forward_encodes_audio_as_the_peer_does(moshi, peer, assert_close: Check) -> None:
    case = peer("forward_of_audio")
    text = peer("forward")["text"][:1]
    out = moshi(
        input_ids=text, user_input_values=case["user_speech"], moshi_input_values=case["moshi_speech"]
    )
    assert_close(out.logits, case["logits"])


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
def test_the_window_holds_with_and_without_a_mask(moshi, peer, assert_close: Check, masked: bool) -> None:
    """The peer has it only with one."""
    case = peer("forward_beyond")
    mask = torch.ones_like(case["text"]) if masked else None
    assert_close(moshi(**_streams(case), attention_mask=mask, use_cache=False).logits, case["logits"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("default", {}),
        ("without_initial", {"max_new_tokens": 7, "concat_unconditional_inputs": False}),
        ("max_length", {"max_length": 15}),
        ("one_token", {"max_new_tokens": 1}),
        ("long", {"max_new_tokens": 28}),
    ],
)
def test_greedy_generation_is_the_peers(moshi, peer, assert_close: Check, name: str, arguments: Any) -> None:
    case = peer("generate")
    out = moshi.generate(**_streams(case), **arguments, return_audio_codes=True)
    assert torch.equal(out.sequences, case[f"{name}.sequences"])
    assert torch.equal(out.audio_codes, case[f"{name}.audio_codes"])
    if f"{name}.audio_sequences" in case:  # the codec's window holds here, and not there
        assert_close(out.audio_sequences, case[f"{name}.audio_sequences"], relative=True)


@torch.no_grad()
def test_generation_from_nothing_is_the_peers(moshi, peer) -> None:
    case = peer("generate")
    out = moshi.generate(max_new_tokens=5, return_audio_codes=True)
    assert torch.equal(out.sequences, case["from_nothing.sequences"])
    assert torch.equal(out.audio_codes, case["from_nothing.audio_codes"])
    inputs = moshi.get_unconditional_inputs(num_samples=2)
    out = moshi.generate(**inputs, max_new_tokens=6, return_audio_codes=True)
    assert torch.equal(out.sequences, case["unconditional.sequences"])
    assert torch.equal(out.audio_codes, case["unconditional.audio_codes"])


@torch.no_grad()
def test_the_logits_of_generation_are_the_peers(moshi, peer, assert_close: Check) -> None:
    case = peer("generate")
    out = moshi.generate(**_streams(case), max_new_tokens=6, return_dict_in_generate=True, output_logits=True)
    assert_close(torch.stack(out.logits), case["logits"])


@torch.no_grad()
def test_text_alone_is_the_peers(decoder, golden, peer, assert_close: Check) -> None:
    case = peer("text")
    assert_close(decoder(case["text"]).logits, case["logits"])
    assert_close(decoder(case["text"], logits_to_keep=2).logits, case["kept_logits"])
    theirs = decoder(case["text"], labels=case["text"], loss_alignment="transformers")
    assert_close(theirs.loss, case["theirs.loss"])
    kept = case["mask"].bool()
    masked = decoder(case["text"], attention_mask=case["mask"]).logits
    assert_close(masked[kept], case["masked_logits"][kept])
    model = MoshiModel.from_pretrained(golden("hf_moshi").folder / "checkpoint")
    assert_close(model(case["text"]).last_hidden_state, case["last_hidden_state"])


@torch.no_grad()
def test_text_step_by_step_is_the_peers(decoder, peer, assert_close: Check) -> None:
    case = peer("text")
    step, cache, stepped = case["text"][:, :1], None, []
    for _ in range(4):
        out = decoder(step, past_key_values=cache, use_cache=True)
        cache, step = out.past_key_values, out.logits[:, -1:].argmax(-1)
        stepped.append(out.logits)
    assert_close(torch.cat(stepped, dim=1), case["stepped_logits"])


@torch.no_grad()
def test_text_generation_is_the_peers(decoder, peer) -> None:
    case = peer("text")
    text, mask = case["text"], case["mask"]
    assert torch.equal(decoder.generate(text), case["default_sequences"])
    assert torch.equal(decoder.generate(text, max_new_tokens=12, do_sample=False), case["sequences"])
    masked = decoder.generate(text, attention_mask=mask, max_new_tokens=12)
    assert torch.equal(masked, case["masked_sequences"])


@torch.no_grad()
def test_the_codec_is_the_peers(codec, peer, assert_close: Check, assert_same_codes: Check) -> None:
    case = peer("codec")
    speech, mask = case["speech"], torch.ones(1, case["decoded"].shape[-1])
    codes = codec.encode(speech).audio_codes
    assert_same_codes(codes, case["codes"])
    assert_same_codes(codec.encode(speech, num_quantizers=5).audio_codes, case["codes_5"])
    assert_close(codec.decode(case["codes"], mask).audio_values, case["decoded"], relative=True)
    out = codec(speech, num_quantizers=5)
    assert_same_codes(out.audio_codes, case["forward.audio_codes"])
    if torch.equal(out.audio_codes, case["forward.audio_codes"]):
        assert_close(out.audio_values, case["forward.audio_values"], relative=True)


@pytest.mark.parametrize(
    ("name", "count", "arguments"),
    [("alone", 1, {}), ("batch", 2, {}), ("longer", 2, {"padding": "max_length", "max_length": 100})],
)
def test_features_are_the_peers(golden, peer, name: str, count: int, arguments: Any) -> None:
    extractor = AutoFeatureExtractor.from_pretrained(golden("hf_mimi").folder / "checkpoint")
    assert extractor == EncodecFeatureExtractor()
    sounds = [torch.linspace(-1, 1, 50).numpy(), torch.linspace(0, 0.5, 80).numpy()][:count]
    raw_audio = sounds if count > 1 else sounds[0]
    features = extractor(raw_audio=raw_audio, sampling_rate=24_000, return_tensors="pt", **arguments)
    case = {key: value for key, value in peer("features").items() if key.startswith(f"{name}.")}
    assert {f"{name}.{key}" for key in features} == set(case)
    for key, value in features.items():
        assert value.dtype == case[f"{name}.{key}"].dtype
        assert torch.equal(value, case[f"{name}.{key}"])


@pytest.mark.parametrize("config", [MimiConfig, MoshiDepthConfig, MoshiConfig])
def test_every_parameter_has_the_peers_default(golden, config: Any) -> None:
    def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        for key, value in ours.items():
            if isinstance(value, dict):
                compare(value, theirs[key])
            elif key != "frame_rate":  # a property there
                assert theirs[key] == value, key

    compare(config().to_dict(), golden("hf_use").json("configs")[config.__name__])
