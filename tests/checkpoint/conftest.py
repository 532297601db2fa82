"""A small checkpoint of each format to load, and to damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moshi_agent.checkpoint import save_kyutai
from moshi_agent.models import loaders

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENIZER = Path(__file__).parents[2] / "moshi_agent" / "assets" / "tiny" / "tokenizer_spm.model"


@pytest.fixture
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in Kyutai's format, float32, made of the golden codec and language model."""
    folder = tmp_path_factory.mktemp("checkpoint")
    mimi_config = json.loads((GOLDEN / "mimi" / "config.json").read_text())
    lm_config = json.loads((GOLDEN / "lm" / "moshi" / "config.json").read_text())
    mimi = loaders.get_mimi(GOLDEN / "mimi" / "model.safetensors", mimi_config)
    lm = loaders.get_moshi_lm(GOLDEN / "lm" / "moshi" / "model.safetensors", lm_config, dtype=torch.float32)
    save_kyutai(folder, mimi, lm, TOKENIZER, dtype=torch.float32, lm_gen_config={"temp": 0.5})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that checkpoint, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    """A copy of a sharded checkpoint in the format of Transformers, to be changed."""
    return Path(shutil.copytree(GOLDEN / "hf_moshi" / "checkpoint", tmp_path / "hf"))


@pytest.fixture
def edit_json() -> Callable[[Path, Mapping[str, Any]], None]:
    """Sets keys of a JSON file; a value of None takes the key out."""

    def edit(path: Path, changes: Mapping[str, Any]) -> None:
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))

    return edit


@pytest.fixture
def edit_tensors() -> Callable[[Path, Callable[[dict[str, Tensor]], object]], None]:
    """Changes the tensors of a safetensors file."""

    def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit
