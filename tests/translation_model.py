"""A small Hibiki with random weights as a checkpoint: the golden one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GOLDEN = Path(__file__).parent / "golden"
_TOKENIZER = Path(__file__).parents[1] / "moshi_agent" / "assets" / "tiny" / "tokenizer_spm.model"


def write_translation_checkpoint(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Writes the checkpoint into `folder`, with changes to its `config.json`, and returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((_GOLDEN / "translation" / "config.json").read_text())
    names = {
        "mimi_name": "mimi.safetensors",
        "mimi_config_name": "mimi.json",
        "tokenizer_name": _TOKENIZER.name,
    }
    (folder / "config.json").write_text(json.dumps(config | names | dict(changes or {})))
    shutil.copy(_GOLDEN / "translation" / "model.safetensors", folder)
    shutil.copy(_GOLDEN / "mimi" / "model.safetensors", folder / names["mimi_name"])
    shutil.copy(_GOLDEN / "mimi" / "config.json", folder / names["mimi_config_name"])
    shutil.copy(_TOKENIZER, folder)
    return folder
