"""A codec by itself: out of any checkpoint, and written for ourselves and for Kyutai's package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from moshi_agent import CheckpointError, ConfigError
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.checkpoint.codec import load_codec, new_codec, save_codec
from tests.checkpoint.peer import peer_codec
from tests.small_models import small_mimi


def test_of_a_checkpoint_only_the_codec_is_read(saved: Path, tmp_path: Path) -> None:
    """With the language model's file and the tokenizer gone."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    for name in ("model.safetensors", "tokenizer_spm.model"):
        (folder / name).unlink()
    ours, theirs = load_codec(folder), load_checkpoint(saved).mimi
    assert ours.num_codebooks == ours.total_codebooks
    assert all(torch.equal(one, theirs.state_dict()[name]) for name, one in ours.state_dict().items())


def test_the_built_in_codec_has_a_name() -> None:
    assert load_codec("tiny").cardinality == 1024


def test_a_codec_in_the_format_of_transformers_is_read(golden: Path) -> None:
    folders = [path.parent for path in golden.glob("**/config.json") if _is_transformers_codec(path)]
    assert folders, "a golden codec of this format"
    for folder in folders:
        assert load_codec(folder).num_codebooks > 0


def _is_transformers_codec(path: Path) -> bool:
    is_mimi = json.loads(path.read_text()).get("model_type") == "mimi"
    return is_mimi and (path.parent / "model.safetensors").exists()


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    codec = small_mimi()
    save_codec(tmp_path, codec)
    again = load_codec(tmp_path)
    assert again.config == codec.config
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in codec.state_dict().items())
    assert new_codec(tmp_path / "mimi_config.json").config == codec.config


def test_a_configuration_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mimi_config.json"
    path.write_text('{"seanet": {"ratio": [2]}}')
    with pytest.raises(ConfigError, match=r"mimi_config\.json: .*'ratio'"):
        new_codec(path)
    path.write_text('{"seanet": {"ratios": 5}}')
    with pytest.raises(ConfigError, match="a value of the wrong kind"):
        new_codec(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        new_codec(tmp_path / "none.json")


@pytest.mark.filterwarnings("ignore")  # what the other package and its libraries warn of is not ours
@torch.no_grad()
def test_kyutais_package_reads_it_and_hears_the_same(tmp_path: Path) -> None:
    codec = small_mimi()
    save_codec(tmp_path, codec)
    peer = peer_codec(tmp_path, codec.num_codebooks)
    speech = 0.3 * torch.randn(2, 1, 8 * codec.frame_size, generator=torch.Generator().manual_seed(1))
    codes = codec.encode(speech)
    assert torch.equal(codes, peer.encode(speech))
    torch.testing.assert_close(codec.decode(codes), peer.decode(codes), rtol=1e-4, atol=1e-4)
