"""The programs in Transformers' documents on Moshi and Mimi, with `moshi_agent.hf` for `transformers`.

What differs from them: the repositories are folders made here of the built-in model, the data set is two
sounds, names that the documents leave to the reader (`device`, `dtype`, `waveform_to_token_ratio`) are given,
and full-size configurations are small ones.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from moshi_agent.checkpoint.convert import convert_checkpoint
from moshi_agent.hf import MimiModel

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 64,
    "audio_encoder_config": {
        "hidden_size": 32,
        "num_filters": 2,
        "codebook_size": 16,
        "codebook_dim": 8,
        "vector_quantization_hidden_dimension": 8,
        "upsample_groups": 32,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
    },
    "depth_decoder_config": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 32,
    },
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the names of the repositories are folders."""
    root = tmp_path_factory.mktemp("hub")
    convert_checkpoint("tiny", root / "kyutai" / "moshiko-pytorch-bf16", "transformers")
    (root / "kmhf").mkdir()
    for name in ("hf-moshiko", "hf-moshiko-pytorch-bf16"):
        (root / "kmhf" / name).symlink_to(root / "kyutai" / "moshiko-pytorch-bf16")
    MimiModel.from_pretrained("tiny").save_pretrained(root / "kyutai" / "mimi")
    return root


class _Dataset(list[Any]):
    def cast_column(self, column: str, kind: Any) -> _Dataset:
        assert (column, kind.sampling_rate) == ("audio", 24_000)
        return self


@pytest.fixture(autouse=True)
def _surroundings(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, and a library of data sets with one that holds half a second of noise."""
    monkeypatch.chdir(hub)
    sounds = np.random.default_rng(0).normal(0, 0.1, (2, 12_345))  # float64, as that library gives it
    library: Any = ModuleType("datasets")
    library.load_dataset = lambda name, kind, split: _Dataset({"audio": {"array": one}} for one in sounds)
    library.Audio = lambda sampling_rate: SimpleNamespace(sampling_rate=sampling_rate)
    monkeypatch.setitem(sys.modules, "datasets", library)


def test_moshi_goes_on_with_a_conversation() -> None:
    from datasets import Audio, load_dataset  # pyright: ignore[reportMissingImports]

    from moshi_agent.hf import (
        AutoFeatureExtractor,
        AutoTokenizer,
        MoshiForConditionalGeneration,
        infer_device,
    )

    device, dtype = infer_device(), torch.bfloat16
    feature_extractor = AutoFeatureExtractor.from_pretrained("kyutai/moshiko-pytorch-bf16")
    tokenizer = AutoTokenizer.from_pretrained("kyutai/moshiko-pytorch-bf16")
    model = MoshiForConditionalGeneration.from_pretrained("kyutai/moshiko-pytorch-bf16", dtype="auto").to(
        device
    )
    waveform_to_token_ratio = model.config.audio_encoder_config.frame_rate / model.config.sampling_rate

    librispeech_dummy = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")
    librispeech_dummy = librispeech_dummy.cast_column(
        "audio", Audio(sampling_rate=feature_extractor.sampling_rate)
    )
    audio_sample = librispeech_dummy[-1]["audio"]["array"]
    user_input_values = feature_extractor(
        raw_audio=audio_sample, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt"
    ).to(device=device, dtype=dtype)

    moshi_input_values = torch.zeros_like(user_input_values.input_values)

    num_tokens = math.ceil(moshi_input_values.shape[-1] * waveform_to_token_ratio)
    input_ids = torch.ones((1, num_tokens), device=device, dtype=torch.int64) * tokenizer.encode("<pad>")[0]

    output = model.generate(
        input_ids=input_ids,
        user_input_values=user_input_values.input_values,
        moshi_input_values=moshi_input_values,
        max_new_tokens=25,
    )

    text_tokens = output.sequences
    audio_waveforms = output.audio_sequences
    assert text_tokens.shape == (1, 1 + num_tokens + 25) and num_tokens == 7
    assert audio_waveforms.shape == (1, 1, (num_tokens + 24) * 1920) and audio_waveforms.isfinite().all()


def test_mimi_encodes_and_decodes() -> None:
    from datasets import Audio, load_dataset  # pyright: ignore[reportMissingImports]

    from moshi_agent.hf import AutoFeatureExtractor, MimiModel

    model = MimiModel.from_pretrained("kyutai/mimi")
    feature_extractor = AutoFeatureExtractor.from_pretrained("kyutai/mimi")

    librispeech_dummy = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")
    librispeech_dummy = librispeech_dummy.cast_column(
        "audio", Audio(sampling_rate=feature_extractor.sampling_rate)
    )
    audio_sample = librispeech_dummy[-1]["audio"]["array"]
    inputs = feature_extractor(
        raw_audio=audio_sample, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt"
    )

    encoder_outputs = model.encode(inputs["input_values"], inputs["padding_mask"])
    audio_values = model.decode(encoder_outputs.audio_codes, inputs["padding_mask"])[0]
    again = model(inputs["input_values"], inputs["padding_mask"]).audio_values
    assert encoder_outputs.audio_codes.shape == (1, 8, 7)
    assert audio_values.shape == again.shape == (1, 1, 12_345)
    assert torch.equal(audio_values, again)


def test_text_goes_on() -> None:
    from moshi_agent.hf import AutoTokenizer, MoshiForCausalLM

    model = MoshiForCausalLM.from_pretrained("kmhf/hf-moshiko")
    tokenizer = AutoTokenizer.from_pretrained("kmhf/hf-moshiko")

    prompt = "What is your favorite condiment?"
    inputs = tokenizer(prompt, return_tensors="pt")

    generate_ids = model.generate(inputs.input_ids, max_length=30)
    text = tokenizer.batch_decode(generate_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)[
        0
    ]
    assert generate_ids.shape == (1, 30)
    assert text.startswith(prompt)


def test_a_conversation_begins_from_nothing() -> None:
    from moshi_agent.hf import MoshiForConditionalGeneration

    model = MoshiForConditionalGeneration.from_pretrained("kmhf/hf-moshiko-pytorch-bf16")

    inputs = model.get_unconditional_inputs()
    logits = model(**inputs).logits
    assert logits.shape == (1, 1, 800)  # (bsz, seq_len, text_vocab_size)

    unconditional_inputs = model.get_unconditional_inputs(num_samples=1)
    audio_samples = model.generate(**unconditional_inputs, max_new_tokens=20)
    assert audio_samples.audio_sequences.shape == (1, 1, 19 * 1920)


def test_a_model_is_made_of_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moshi_agent.hf import MoshiConfig, MoshiForConditionalGeneration

    monkeypatch.chdir(tmp_path)
    configuration = MoshiConfig(**SMALL)
    model = MoshiForConditionalGeneration(configuration)
    configuration = model.config
    model.save_pretrained("kmhf/hf-moshiko")
    moshi_config = MoshiConfig.from_pretrained("kmhf/hf-moshiko")
    model = MoshiForConditionalGeneration.from_pretrained("kmhf/hf-moshiko", config=moshi_config)
    assert model.config == configuration


def test_a_depth_decoder_is_made_of_a_configuration() -> None:
    from moshi_agent.hf import MoshiDepthConfig, MoshiDepthDecoder

    configuration = MoshiDepthConfig(**SMALL["depth_decoder_config"], input_size=32, vocab_size=50)
    model = MoshiDepthDecoder(configuration)
    configuration = model.config
    steps, books = 5, configuration.num_codebooks
    logits = model(torch.zeros(steps, books, dtype=torch.long), torch.zeros(steps, 1, 32)).logits
    assert logits.shape == (steps, books, configuration.audio_vocab_size)


def test_a_codec_is_made_of_a_configuration() -> None:
    from moshi_agent.hf import MimiConfig, MimiModel

    configuration = MimiConfig()
    model = MimiModel(configuration)
    configuration = model.config
    assert model.num_parameters() > 70e6
    assert configuration.frame_rate == 12.5
