"""Writes the files of a checkpoint, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from moshi_agent.errors import OutputError
from moshi_agent.outputs import naming, whole_file


def make_folder(folder: Path) -> None:
    """Raises OutputError where it cannot be made."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, each tensor in its own type.

    Raises OutputError where it cannot be written.
    """
    apart = {name: _apart(tensor) for name, tensor in tensors.items()}
    with whole_file(path) as part:
        mode = part.stat().st_mode  # the library writes a file for its owner alone
        try:
            save_file(apart, part, metadata)
            part.chmod(mode)
        except Exception as error:  # the library has a type of its own for a full disk
            raise OutputError(f"cannot write {path}: {error}") from error


def _apart(tensor: Tensor) -> Tensor:
    """A tensor that shares no memory with others, which the format refuses."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def write_json(path: Path, values: Mapping[str, Any], sort_keys: bool = False) -> None:
    """Raises OutputError where it cannot be written."""
    with whole_file(path) as part, naming(path):
        part.write_text(json.dumps(values, indent=2, sort_keys=sort_keys) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Raises OutputError where it cannot be written; a file that is there already stays."""
    if source.resolve() != target.resolve():
        with whole_file(target) as part:
            shutil.copyfile(source, part)
