"""The names and layouts of Transformers, there and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moshi_agent.checkpoint.kyutai import config as kyutai_config
from moshi_agent.checkpoint.transformers.config import read_mimi_config, read_moshi_config
from moshi_agent.checkpoint.transformers.names import mimi_pairings, moshi_pairings, to_ours, to_theirs
from moshi_agent.config import MimiConfig
from moshi_agent.models.mimi import MimiModel


def _all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize("name", ["hf_mimi", "hf_moshi"])
def test_a_file_converted_to_our_tensors_and_back_is_the_same_bit_for_bit(golden: Path, name: str) -> None:
    folder = golden / name / "checkpoint"
    config = json.loads((folder / "config.json").read_text())
    is_codec = config["model_type"] == "mimi"
    mimi_config = read_mimi_config(config if is_codec else config["audio_encoder_config"])
    pairings = mimi_pairings(
        MimiModel(mimi_config).state_dict(), mimi_config.transformer, "" if is_codec else "audio_encoder."
    )
    tensors = _all_tensors(folder)
    if not is_codec:
        pairings += moshi_pairings(read_moshi_config(config))
    again = to_theirs(pairings, to_ours(pairings, tensors))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in tensors.items())


def test_the_defaults_are_the_published_models() -> None:
    """A `config.json` that leaves out what is at its default, as that library may write it."""
    moshi = read_moshi_config({"model_type": "moshi"})
    published = kyutai_config.read_moshi_config(None)
    assert moshi.temporal == published.temporal
    assert moshi.depth == published.depth
    assert moshi == published
    assert read_mimi_config({"model_type": "mimi"}) == MimiConfig()
