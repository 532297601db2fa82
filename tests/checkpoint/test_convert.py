"""Checkpoints in the other format: there and back again with every bit, or a clear refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moshi_agent import CheckpointError, ConfigError, load_checkpoint
from moshi_agent.checkpoint.convert import convert_checkpoint

TINY = Path(str(resources.files("moshi_agent") / "assets" / "tiny"))
TOKENIZER = TINY / "tokenizer_spm.model"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model in the format of Transformers, in several shards."""
    folder = tmp_path_factory.mktemp("converted") / "tiny"
    convert_checkpoint("tiny", folder, "transformers", max_shard_size="4MB")
    return folder


def test_there_and_back_again_no_bit_has_changed(converted: Path, tmp_path: Path) -> None:
    convert_checkpoint(converted, tmp_path / "back", "kyutai")
    for name in ("model.safetensors", "mimi.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (TINY / name).read_bytes()
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == TOKENIZER.read_bytes()
    back, before = (json.loads((one / "config.json").read_text()) for one in (tmp_path / "back", TINY))
    assert back["lm_gen_config"] == before["lm_gen_config"]
    there, here = load_checkpoint(tmp_path / "back"), load_checkpoint("tiny")
    assert there.mimi_config == here.mimi_config
    # A gated block of 255 is as wide as one of 256.
    assert back | {"depformer_dim_feedforward": 256, "tokenizer_name": "tokenizer_spm.model"} == before


def test_the_other_way_round_no_bit_has_changed(golden: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in (golden / "hf_moshi" / "checkpoint").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "tokenizer.model").write_bytes(TOKENIZER.read_bytes())
    convert_checkpoint(source, tmp_path / "kyutai", "kyutai")
    convert_checkpoint(tmp_path / "kyutai", tmp_path / "back", "transformers")
    before = {k: v for path in source.glob("model-*") for k, v in load_file(path).items()}
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
def test_both_are_the_same_model(converted: Path) -> None:
    ours, theirs = load_checkpoint("tiny"), load_checkpoint(converted)
    audio = 0.1 * torch.randn(1, 1, 3 * 1920, generator=torch.Generator().manual_seed(0))
    codes = ours.mimi.encode(audio)
    assert torch.equal(codes, theirs.mimi.encode(audio))
    streams = torch.cat([torch.full((1, 1, 3), 3), codes, codes], dim=1)
    assert ours.lm is not None and theirs.lm is not None
    assert torch.equal(ours.lm(streams).text_logits, theirs.lm(streams).text_logits)
    assert theirs.tokenizer is not None


def test_shards_and_types_are_as_asked(converted: Path) -> None:
    index = json.loads((converted / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    assert all((converted / shard).stat().st_size < 4.1e6 for shard in shards)
    types = {tensor.dtype for shard in shards for tensor in load_file(converted / shard).values()}
    kept = {tensor.dtype for file in TINY.glob("*.safetensors") for tensor in load_file(file).values()}
    assert types == kept


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"delays": [0] * 9}, "delays"),
        ({"existing_text_padding_id": 7}, "text_padding_id=7"),
        ({"norm": "layer_norm"}, "temporal.norm='layer_norm'"),
        ({"depformer_pos_emb": "rope"}, "depth.transformer.positional_embedding='rope'"),
        ({"depformer_weights_per_step_schedule": [0, 0, 1, 1]}, "weights_per_step_schedule"),
        ({"n_q": 9, "delays": [0] * 10}, "n_q=9"),
        ({"extra_heads_num_heads": 2}, "extra_heads_num_heads=2"),
        ({"dep_q": 0}, "without a depth transformer"),
        ({"model_type": "hibiki"}, "hibiki"),
        ({"lm_gen_config": {"cfg_coef": 2.0}}, "cfg_coef"),
        ({"stt_config": {"audio_delay_seconds": 1.0}}, "stt_config"),
    ],
)
def test_what_the_format_has_no_place_for_is_named(
    folder: Path,
    tmp_path: Path,
    edit_json: Callable[[Path, Any], None],
    changes: dict[str, Any],
    named: str,
) -> None:
    edit_json(folder / "config.json", changes)
    with pytest.raises(ConfigError, match=named):
        convert_checkpoint(folder, tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


def test_what_stands_beside_the_weights_is_what_transformers_reads(converted: Path) -> None:
    """Tried with transformers 4.57.6: its tokenizer, feature extractor and generation read these files."""
    read = {path.name: json.loads(path.read_text()) for path in converted.glob("*.json")}
    tokenizer = read["tokenizer_config.json"]
    assert (tokenizer["tokenizer_class"], tokenizer["pad_token"]) == ("LlamaTokenizer", "<pad>")
    assert read["preprocessor_config.json"]["sampling_rate"] == 24_000
    depth = read["generation_config.json"]["depth_decoder_config"]
    assert (depth["min_length"], depth["max_length"], depth["top_k"]) == (9, 9, 20)


def test_a_format_that_it_has_already_is_an_error(converted: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="transformers already"):
        convert_checkpoint(converted, tmp_path, "transformers")
    with pytest.raises(CheckpointError, match="kyutai already"):
        convert_checkpoint("tiny", tmp_path, "kyutai")
    with pytest.raises(CheckpointError, match="another folder"):
        convert_checkpoint(converted, converted, "kyutai")
    with pytest.raises(ConfigError, match="'onnx'"):
        convert_checkpoint("tiny", tmp_path, "onnx")  # pyright: ignore[reportArgumentType]


def test_what_kyutais_format_needs_is_missed(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="codec alone"):
        convert_checkpoint(golden / "hf_mimi" / "checkpoint", tmp_path, "kyutai")
    with pytest.raises(CheckpointError, match="no sentencepiece model"):
        convert_checkpoint(golden / "hf_moshi" / "checkpoint", tmp_path, "kyutai")
