"""What is written is what was read: names, shards, parts of a model, and both formats as a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moshi_agent import CheckpointError, load_checkpoint
from moshi_agent.errors import ConfigError
from moshi_agent.hf import MimiModel, MoshiConfig, MoshiForCausalLM, MoshiForConditionalGeneration, MoshiModel


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = folder.glob("model*.safetensors")
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def _assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_whole_model_is_written_as_transformers_wrote_it(hf_moshi: Path, tmp_path: Path, moshi) -> None:
    moshi.save_pretrained(tmp_path, max_shard_size="150KB")
    _assert_same(_tensors(tmp_path), _tensors(hf_moshi))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    theirs = json.loads((hf_moshi / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == theirs["weight_map"].keys()
    assert len(set(index["weight_map"].values())) > 1
    assert all((tmp_path / shard).stat().st_size < 170_000 for shard in set(index["weight_map"].values()))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["MoshiForConditionalGeneration"]
    assert load_checkpoint(tmp_path).lm is not None


def test_fewer_shards_leave_none_of_the_earlier_ones(tmp_path: Path, moshi) -> None:
    moshi.save_pretrained(tmp_path, max_shard_size=100_000)
    moshi.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    with pytest.raises(ConfigError, match="'much'"):
        moshi.save_pretrained(tmp_path, max_shard_size="much")


def test_a_codec_is_written_as_transformers_wrote_it(hf_mimi: Path, tmp_path: Path, codec) -> None:
    codec.save_pretrained(tmp_path)
    _assert_same(_tensors(tmp_path), _tensors(hf_mimi))
    again = MimiModel.from_pretrained(tmp_path)
    audio = 0.1 * torch.randn(1, 1, 4000)
    assert torch.equal(again.encode(audio).audio_codes, codec.encode(audio).audio_codes)


@pytest.mark.parametrize("kind", [MoshiForCausalLM, MoshiModel])
def test_a_part_of_a_model_comes_back_by_itself(hf_moshi: Path, tmp_path: Path, kind: Any) -> None:
    model = kind.from_pretrained(hf_moshi)
    model.save_pretrained(tmp_path)
    prefix = "model." if kind is MoshiForCausalLM else ""
    assert f"{prefix}layers.0.self_attn.q_proj.linear.weight" in _tensors(tmp_path)
    again = kind.from_pretrained(tmp_path)
    tokens = torch.arange(8)[None]
    assert torch.equal(again(tokens)[0], model(tokens)[0])


def test_generation_settings_come_back(tmp_path: Path, moshi) -> None:
    moshi.generation_config.do_sample = True
    moshi.generation_config.depth_decoder_config = {"top_k": 4, "do_sample": True}
    moshi.save_pretrained(tmp_path)
    again = MoshiForConditionalGeneration.from_pretrained(tmp_path)
    assert again.generation_config == moshi.generation_config


def test_a_checkpoint_of_kyutais_is_a_model_too() -> None:
    """The built-in model, which samples as its own configuration says."""
    model = MoshiForConditionalGeneration.from_pretrained("tiny", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert next(model.audio_encoder.parameters()).dtype == torch.float32
    assert (model.generation_config.temperature, model.generation_config.depth().top_k) == (0.2, 20)
    assert MimiModel.from_pretrained("tiny").config.num_quantizers == 8
    assert MoshiForCausalLM.from_pretrained("tiny")(torch.tensor([[3, 3]])).logits.shape == (1, 2, 800)


def test_a_model_of_a_configuration_has_random_weights(tmp_path: Path, hf_moshi: Path) -> None:
    """And is the same after a file, at the type that it was asked for."""
    config = MoshiConfig.from_pretrained(hf_moshi)
    model = MoshiForConditionalGeneration(config)
    assert model.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert MoshiForConditionalGeneration.from_pretrained(tmp_path).dtype == torch.float32
    again = MoshiForConditionalGeneration.from_pretrained(tmp_path, torch_dtype="auto", config=config)
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.lm.text_emb.weight, model.lm.text_emb.weight)


def test_what_cannot_be_loaded_or_saved_is_refused(tmp_path: Path, hf_mimi: Path, moshi) -> None:
    with pytest.raises(ConfigError, match="model_type 'mimi'"):
        MoshiForCausalLM.from_pretrained(hf_mimi)
    with pytest.raises(ConfigError, match="'float31'"):
        MoshiForConditionalGeneration.from_pretrained("tiny", dtype="float31")
    with pytest.raises(ConfigError, match="safe_serialization"):
        moshi.save_pretrained(tmp_path, safe_serialization=False)
    moshi.lm.pack()
    with pytest.raises(CheckpointError, match="packed"):
        moshi.save_pretrained(tmp_path)
