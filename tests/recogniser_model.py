"""A small recogniser with random weights as a checkpoint: the golden one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_PADDING, _THE = (0, 3), 15
_GOLDEN = Path(__file__).parent / "golden"
_TOKENIZER = _GOLDEN / "tokenizer_spm.model"


def write_recogniser_checkpoint(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Writes the checkpoint into `folder`, with changes to its `config.json`, and returns `folder`.

    It writes something in nearly every frame.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((_GOLDEN / "transcription" / "config.json").read_text())
    names = {
        "mimi_name": "mimi.safetensors",
        "mimi_config_name": "mimi.json",
        "tokenizer_name": _TOKENIZER.name,
    }
    (folder / "config.json").write_text(json.dumps(config | names | dict(changes or {})))
    shutil.copy(_GOLDEN / "transcription" / "model.safetensors", folder)
    shutil.copy(_GOLDEN / "mimi" / "model.safetensors", folder / names["mimi_name"])
    shutil.copy(_GOLDEN / "mimi" / "config.json", folder / names["mimi_config_name"])
    shutil.copy(_TOKENIZER, folder)
    return folder


def write_sparing_checkpoint(folder: Path) -> Path:
    """As `write_recogniser_checkpoint`, of a recogniser that writes `the`, in one frame of a few.

    Where it is far from writing, it expects half a second of silence.
    """
    weights = write_recogniser_checkpoint(folder) / "model.safetensors"
    tensors = load_file(weights)
    silent = torch.ones(len(tensors["text_linear.weight"]), dtype=torch.bool)
    silent[[*_PADDING, _THE]] = False  # where all of them are unlikely, the first of the others is: no text
    tensors["text_linear.weight"][silent] = 0
    padding, the = tensors["text_linear.weight"][[_PADDING[1], _THE]]
    tensors["extra_heads.0.weight"].zero_()[0] = 20 * (padding - the)
    save_file(tensors, weights)
    return folder
