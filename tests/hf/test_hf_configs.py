"""Configurations: nested, open to unknown keys, and the same after a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.errors import ConfigError
from moshi_agent.hf import MimiConfig, MimiModel, MoshiConfig, MoshiDepthConfig


def test_what_the_parts_share_is_the_models() -> None:
    config = MoshiConfig(
        hidden_size=64, vocab_size=50, num_codebooks=3, audio_encoder_config={"codebook_size": 16}
    )
    depth = config.depth_decoder_config
    assert (depth.input_size, depth.vocab_size, depth.num_codebooks) == (64, 50, 3)
    assert (config.audio_vocab_size, depth.audio_vocab_size) == (16, 16)
    assert config.sampling_rate == 24_000


def test_a_configuration_is_made_around_that_of_a_codec() -> None:
    codec = MimiConfig(num_filters=3, sampling_rate=16_000)
    config = MoshiConfig.from_audio_encoder_config(codec, hidden_size=64, num_attention_heads=4)
    assert config.audio_encoder_config == codec
    assert (config.hidden_size, config.sampling_rate) == (64, 16_000)


def test_keys_that_say_nothing_about_the_model_are_kept_as_attributes() -> None:
    config = MimiConfig(transformers_version="4.57.6", torch_dtype="bfloat16", normalize=False)
    assert (config.normalize, config.dtype) == (False, "bfloat16")
    assert MimiConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@given(
    hidden=st.sampled_from([32, 64]),
    heads=st.sampled_from([2, 4]),
    books=st.integers(2, 8),
    note=st.text(max_size=5),
)
def test_a_configuration_comes_back_from_its_dictionary(
    hidden: int, heads: int, books: int, note: str
) -> None:
    config = MoshiConfig(
        hidden_size=hidden,
        num_attention_heads=heads,
        num_codebooks=books,
        depth_decoder_config={"ffn_dim": 88},
        note=note,
    )
    again = MoshiConfig.from_dict(json.loads(config.to_json_string()))
    assert again == config
    assert again.to_dict() == config.to_dict()


def test_a_configuration_comes_back_from_its_file(tmp_path: Path) -> None:
    config = MoshiConfig(num_hidden_layers=3, depth_decoder_config=MoshiDepthConfig(num_hidden_layers=2))
    config.save_pretrained(tmp_path)
    assert MoshiConfig.from_pretrained(tmp_path) == config
    assert MoshiDepthConfig.from_pretrained(tmp_path).num_hidden_layers == 2
    assert MimiConfig.from_pretrained(tmp_path) == config.audio_encoder_config
    assert MoshiConfig.from_pretrained(tmp_path, num_hidden_layers=5).num_hidden_layers == 5


def test_the_configuration_of_a_checkpoint_of_kyutais_is_made() -> None:
    config = MoshiConfig.from_pretrained("tiny")
    assert (config.vocab_size, config.hidden_size, config.num_codebooks) == (800, 256, 8)
    assert config.audio_encoder_config.num_quantizers == 8


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MoshiConfig(ffn_dim=7), "ffn_dim=7"),
        (lambda: MoshiDepthConfig(ffn_dim=7), "ffn_dim=7"),
        (lambda: MoshiConfig(num_codebooks=33), "num_codebooks=33"),
        (lambda: MimiConfig(num_quantizers=1), "num_semantic_quantizers=1"),
        (lambda: MimiModel(MimiConfig(use_conv_shortcut=True)), "use_conv_shortcut=True"),
    ],
)
def test_values_that_do_not_fit_are_refused(make, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make()
