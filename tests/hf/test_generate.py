"""`generate`: the caller's audio beyond the history, settings, rows, and what is refused."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from moshi_agent.errors import InputError
from moshi_agent.hf import GenerationConfig, MoshiConfig, MoshiForCausalLM, MoshiForConditionalGeneration
from moshi_agent.hf.text_generation import generate_text
from moshi_agent.models import LMGen
from moshi_agent.models.lm import LMModel
from moshi_agent.nn import cache_attention, fused
from tests.engine.calling_device import CallingDevice, FailingDevice
from tests.small_models import small_lm_config

CODES = {"return_audio_codes": True, "return_audio_waveforms": False}


def _user(frames: int, rows: int = 2) -> Tensor:
    return torch.randint(32, (rows, 4, frames), generator=torch.Generator().manual_seed(5))


def _said_by_lmgen(lm: LMModel, streams: dict[str, Tensor], steps: int) -> Tensor:
    """The same conversation step by step, the history forced: [B, 1 + K, history + steps - 1]."""
    text, moshi, user = (streams[name] for name in ("input_ids", "moshi_audio_codes", "user_audio_codes"))
    generator, past = LMGen(lm, use_sampling=False), text.shape[1]
    frames: list[Tensor | None] = []
    with generator.streaming(len(text)):
        for step in range(past + steps):
            forced = torch.full((len(text), 5, 1), -2)
            if step < past:
                forced[:, 0, 0], forced[:, 1, 0] = text[:, step], moshi[:, 0, step]
            if 0 < step <= past:
                forced[:, 2:, 0] = moshi[:, 1:, step - 1]
            # A stream's first frame stands for the initial tokens.
            frames.append(generator.step(user[:, :, max(step - 1, 0), None], forced_tokens=forced))
    return torch.cat([frame for frame in frames if frame is not None], dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("past", [9, 50], ids=["short", "beyond_the_window"])
def test_the_callers_audio_beyond_the_history_is_fed_while_the_model_speaks(moshi, past: int) -> None:
    """Frame by frame: the reply to it is that of Kyutai's `LMGen`, which has it frame by frame as well."""
    streams = {
        "input_ids": torch.randint(48, (2, past), generator=torch.Generator().manual_seed(7)),
        "moshi_audio_codes": _user(past).flip(0),
        "user_audio_codes": _user(past + 20),
    }
    out = moshi.generate(**streams, max_new_tokens=20, **CODES)
    said = _said_by_lmgen(moshi.lm, streams, 20)
    assert torch.equal(out.audio_codes, said[:, 1:])
    assert torch.equal(out.sequences[:, 1:-1], said[:, 0])
    cut = streams | {"user_audio_codes": streams["user_audio_codes"][..., :past]}
    assert not torch.equal(moshi.generate(**cut, max_new_tokens=20, **CODES).sequences, out.sequences)


@torch.no_grad()
def test_without_a_length_the_reply_lasts_as_long_as_the_caller(moshi, streams) -> None:
    streams["user_audio_codes"] = _user(14)
    out = moshi.generate(**streams, **CODES)
    assert out.sequences.shape == (2, 1 + 9 + 5)
    assert moshi.generate(**streams, max_new_tokens=8, **CODES).sequences.shape == (2, 1 + 9 + 8)


@torch.no_grad()
def test_audio_goes_in_as_its_codes_do(moshi) -> None:
    audio = 0.1 * torch.randn(1, 1, 14 * 96, generator=torch.Generator().manual_seed(0))
    codes = moshi.audio_encoder.encode(audio, num_quantizers=4).audio_codes
    silence = torch.zeros(1, 1, 9 * 96)
    text = torch.full((1, 9), 3)
    out = moshi.generate(text, user_input_values=audio, moshi_input_values=silence, return_audio_codes=True)
    given = moshi.generate(text, user_audio_codes=codes, moshi_input_values=silence, return_audio_codes=True)
    assert torch.equal(out.audio_codes, given.audio_codes)
    assert out.audio_codes.shape == (1, 4, 13)
    assert out.audio_sequences.shape == (1, 1, 13 * 96)


@torch.no_grad()
def test_embeddings_go_in_as_their_tokens_do(moshi, streams) -> None:
    """Those of all streams, delayed."""
    delayed = [
        moshi.build_delay_pattern_mask(streams[name], 32, 32)[0]
        for name in ("moshi_audio_codes", "user_audio_codes")
    ]
    embeds = moshi.lm.embed(torch.cat([streams["input_ids"][:, None], *delayed], dim=1))
    wanted = moshi.generate(**streams, concat_unconditional_inputs=False, max_new_tokens=7, **CODES)
    text = streams.pop("input_ids")
    out = moshi.generate(**streams, inputs_embeds=embeds, max_new_tokens=7, **CODES)
    assert torch.equal(torch.cat([text, out.sequences], dim=1), wanted.sequences)
    assert torch.equal(out.audio_codes, wanted.audio_codes)


@torch.no_grad()
def test_sampling_is_repeated_by_the_seed_and_differs_between_rows(moshi, streams) -> None:
    arguments: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "depth_decoder_do_sample": True}

    def run(seed: int) -> Any:
        torch.manual_seed(seed)
        return moshi.generate(**streams, **arguments, num_return_sequences=3, max_new_tokens=8, **CODES)

    first, again, other = run(1), run(1), run(2)
    assert torch.equal(first.audio_codes, again.audio_codes)
    assert not torch.equal(first.audio_codes, other.audio_codes)
    assert first.sequences.shape == (6, 18)
    assert len({tuple(row) for row in first.sequences[:3].tolist()}) > 1
    assert torch.equal(first.sequences[0, 1:10], first.sequences[2, 1:10])


@torch.no_grad()
def test_captured_steps_say_what_they_say_without(moshi, streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for all but the first steps; a few steps are not worth one."""
    device = CallingDevice()
    arguments: dict[str, Any] = {"do_sample": True, "depth_decoder_do_sample": True, **CODES}
    outputs: list[Any] = []
    for graphs in (device, False):
        monkeypatch.setattr(moshi, "cuda_graphs", graphs)
        torch.manual_seed(3)
        outputs.append(moshi.generate(**streams, **arguments, max_new_tokens=24, output_logits=True))
    assert torch.equal(outputs[0].audio_codes, outputs[1].audio_codes)
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    for one, other in zip(outputs[0].logits, outputs[1].logits, strict=True):
        assert torch.equal(one, other)
    assert device.captured == 1
    monkeypatch.setattr(moshi, "cuda_graphs", device)
    moshi.generate(**streams, **arguments, max_new_tokens=8)
    assert device.captured == 1


@torch.no_grad()
def test_top_k_of_one_is_greedy(moshi, streams) -> None:
    greedy = moshi.generate(**streams, **CODES)
    settings = GenerationConfig(
        do_sample=True, top_k=1, depth_decoder_config={"do_sample": True, "top_k": 1, "max_length": 5}
    )
    assert torch.equal(
        moshi.generate(**streams, generation_config=settings, **CODES).audio_codes, greedy.audio_codes
    )
    by_argument = {"do_sample": True, "top_k": 1, "depth_do_sample": True, "depth_top_k": 1}
    assert torch.equal(moshi.generate(**streams, **by_argument, **CODES).audio_codes, greedy.audio_codes)


@torch.no_grad()
def test_what_is_returned_follows_the_flags(moshi, streams) -> None:
    text = moshi.generate(**streams, return_audio_waveforms=False, max_new_tokens=2)
    assert isinstance(text, Tensor) and text.shape == (2, 12)
    out = moshi.generate(**streams, max_new_tokens=2)
    assert out.audio_codes is None and out.audio_sequences.shape == (2, 1, 10 * 96)


def _long(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"user_audio_codes": None}, "user_input_values or user_audio_codes missing"),
        ({"moshi_audio_codes": None}, "moshi_input_values or moshi_audio_codes missing"),
        ({"input_ids": None}, "input_ids or inputs_embeds missing"),
        ({"input_ids": _long(2, 8)}, "not synchronised .*input_ids 2 x 8"),
        ({"user_audio_codes": _long(2, 4, 8)}, "not synchronised .*user 2 x 8"),
        ({"user_audio_codes": None, "user_input_values": torch.zeros(2, 1, 700)}, "user 2 x 8"),
        ({"moshi_audio_codes": _long(1, 4, 9)}, "moshi 1 x 9"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"temprature": 0.5}, "temprature not known"),
        ({"depth_decoder_beams": 2}, "depth_decoder_beams not known"),
        ({"do_sample": True, "temperature": 0.0}, "temperature=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"num_return_sequences": 2}, "do_sample=True"),
        ({"max_length": 10}, "at least one new token"),
        ({"max_new_tokens": 0}, "at least one new token"),
        ({"attention_mask": _long(2, 9)}, "attention_mask with zeros"),
        ({"output_scores": True}, "output_scores=True"),
    ],
)
def test_inputs_and_settings_that_do_not_fit_are_refused(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor], arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        moshi.generate(**streams | arguments)


def test_text_ends_where_a_row_says_so(decoder: MoshiForCausalLM, streams) -> None:
    text = streams["input_ids"]
    free = decoder.generate(text, max_new_tokens=6)
    end = int(free[0, 11])
    out = decoder.generate(text, max_new_tokens=6, eos_token_id=end, pad_token_id=0)
    stop = free[0, 9:].tolist().index(end)
    assert torch.equal(out[0, : 10 + stop], free[0, : 10 + stop])
    assert not out[0, 10 + stop :].any()


def test_text_can_be_sampled(decoder: MoshiForCausalLM, streams) -> None:
    text = streams["input_ids"]
    torch.manual_seed(0)
    out = decoder.generate(
        text, do_sample=True, top_k=5, top_p=0.9, num_return_sequences=2, max_new_tokens=9,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    assert out.sequences.shape == (4, 18) and len(out.logits) == 9
    logits = torch.stack(out.logits, dim=1)
    rank = (logits > logits.gather(2, out.sequences[:, 9:, None])).sum(-1)
    assert int(rank.max()) < 5
    with pytest.raises(InputError, match="inputs of shape"):
        decoder.generate()


_TEXT: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "top_k": 5, "top_p": 0.9, "num_return_sequences": 2},
    "padded": {"do_sample": True, "attention_mask": torch.tensor([[0] * 3 + [1] * 6, [1] * 9])},
    "ends": {"do_sample": True, "eos_token_id": [3, 7, 11], "pad_token_id": 0},
}


@pytest.mark.parametrize("arguments", _TEXT.values(), ids=_TEXT.keys())
def test_captured_text_says_what_it_says_without(
    decoder: MoshiForCausalLM, streams: dict[str, Tensor], arguments: dict[str, Any]
) -> None:
    """Beyond the window, and beyond the positions by which a cache grows."""
    device, outputs = CallingDevice(), list[Any]()
    for graphs in (device, False):
        decoder.cuda_graphs = graphs
        torch.manual_seed(3)
        outputs.append(
            decoder.generate(
                streams["input_ids"], max_new_tokens=140, return_dict_in_generate=True, output_logits=True,
                **arguments,
            )
        )  # fmt: skip
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    for one, other in zip(outputs[0].logits, outputs[1].logits, strict=True):
        assert torch.equal(one, other)
    assert device.captured == 1


def test_few_tokens_of_text_are_not_captured_and_a_capture_may_fail(
    moshi: MoshiForConditionalGeneration, streams: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """The model of text is captured where the whole model is."""
    text = streams["input_ids"]
    moshi.cuda_graphs = device = CallingDevice()
    moshi.decoder.generate(text, max_new_tokens=15)
    assert device.captured == 0
    wanted: Any = moshi.decoder.generate(text, max_new_tokens=16)
    assert device.captured == 1
    moshi.cuda_graphs = FailingDevice(0, torch.OutOfMemoryError("CUDA out of memory. Tried"))
    with caplog.at_level(logging.WARNING, "moshi_agent.nn"):
        again: Any = moshi.decoder.generate(text, max_new_tokens=16)
    assert torch.equal(again, wanted)
    assert caplog.text.count("cannot be captured as a CUDA graph (no memory is left)") == 1


def test_text_without_a_window_goes_on_as_in_a_wide_one(
    decoder: MoshiForCausalLM, streams: dict[str, Tensor]
) -> None:
    outputs: list[Any] = []
    for window in (None, 1000):
        config = decoder.config.to_dict() | {"sliding_window": window}
        model = MoshiForCausalLM(MoshiConfig(**config))
        model.lm.load_state_dict(decoder.lm.state_dict())
        model.cuda_graphs = CallingDevice()
        outputs.append(model.generate(streams["input_ids"], max_new_tokens=140))
    assert torch.equal(*outputs)
    narrow: Any = decoder.generate(streams["input_ids"], max_new_tokens=140)
    assert not torch.equal(narrow, outputs[0])


def test_text_asks_the_device_nothing() -> None:
    """On tensors without values, which say they are CUDA's: to look at one, or to bring one along, raises."""
    with torch.device("meta"):
        lm, tokens = LMModel(small_lm_config(300)).eval(), torch.zeros(2, 9, dtype=torch.long)
    on_cuda = property(lambda tensor: tensor.device.type == "meta")
    settings, device = GenerationConfig(do_sample=True, top_p=0.9), CallingDevice()
    with (
        mock.patch.object(torch.Tensor, "is_cuda", on_cuda),
        mock.patch.object(fused, "serves", lambda x: False),
        mock.patch.object(cache_attention, "serves", lambda config, device: False),
        torch.inference_mode(),
    ):
        sequences = generate_text(lm, tokens, None, settings, device).sequences
    assert sequences is not None and sequences.shape == (2, 29)
    assert device.captured == 1
