"""Writes weights as Hugging Face Transformers does: `model.safetensors`, or shards of it with an index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from moshi_agent.checkpoint.format import DEFAULT_SHARD_SIZE
from moshi_agent.checkpoint.transformers.files import INDEX_NAME, WEIGHTS_NAME
from moshi_agent.checkpoint.write import make_folder, write_json, write_tensors
from moshi_agent.errors import ConfigError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def shard_bytes(size: int | str) -> int:
    """Reads a number of bytes, as a number or like `5GB` or `200MiB`.

    Raises ConfigError for anything else.
    """
    if isinstance(size, int) and size > 0:
        return size
    written = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B)?\s*", str(size).upper())
    if written is None or float(written[1]) <= 0:
        raise ConfigError(
            f"max_shard_size={size!r}; accepted: a number of bytes, or one like '5GB' or '200MiB'"
        )
    return int(float(written[1]) * _UNITS[written[2] or ""])


def write_weights(
    folder: Path, tensors: Mapping[str, Tensor], max_shard_size: int | str = DEFAULT_SHARD_SIZE
) -> None:
    """Writes tensors by their names there; weights that an earlier call left in the folder are removed.

    Args:
        max_shard_size: of one file; a larger tensor gets a file of its own.

    Raises:
        ConfigError: a size that is none.
        OutputError: a file cannot be written; those before it are.
    """
    shards = _split(tensors, shard_bytes(max_shard_size))
    make_folder(folder)
    names = [WEIGHTS_NAME]
    if len(shards) > 1:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_tensors(folder / name, shard, {"format": "pt"})
    if len(shards) > 1:
        _write_index(folder / INDEX_NAME, dict(zip(names, shards, strict=True)))
    _remove_others(folder, {*names, INDEX_NAME} if len(shards) > 1 else {*names})


def _split(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _write_index(path: Path, shards: Mapping[str, Mapping[str, Tensor]]) -> None:
    total = sum(tensor.nbytes for shard in shards.values() for tensor in shard.values())
    weight_map = {name: file for file, shard in shards.items() for name in shard}
    write_json(path, {"metadata": {"total_size": total}, "weight_map": weight_map}, sort_keys=True)


def _remove_others(folder: Path, kept: set[str]) -> None:
    """Weights of an earlier call with another number of shards would be taken for these."""
    for path in folder.glob("model*.safetensors*"):
        if (
            re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?", path.name)
            and path.name not in kept
        ):
            path.unlink()
