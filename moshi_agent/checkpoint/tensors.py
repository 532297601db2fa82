"""Tensors in safetensors files: mapped, checked, and put into a model all or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moshi_agent.errors import CheckpointError


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Every tensor of a safetensors file, mapped from it rather than read.

    Raises:
        CheckpointError: no such file, or it is truncated or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device=device) as file:  # pyright: ignore[reportUnknownVariableType]
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error


def read_shards(index: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Every tensor of a checkpoint in several files, by its `*.safetensors.index.json`.

    Raises:
        CheckpointError: a file or a tensor that the index names is missing or damaged.
    """
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{index}: no index of shards ({error})") from error
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        tensors |= read_tensors(index.parent / shard, device)
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise CheckpointError(f"{index}: tensors missing from the shards: {_some(missing)}")
    return tensors


def check_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raises CheckpointError unless `tensors` are the model's, by name and shape."""
    wanted = model.state_dict()
    missing, unexpected = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or unexpected:
        parts = [f"missing {_some(missing)}"] if missing else []
        parts += [f"unexpected {_some(unexpected)}"] if unexpected else []
        raise CheckpointError(f"{source}: tensors do not match the configuration: {'; '.join(parts)}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {list(tensor.shape)}; the configuration asks for {list(wanted[name].shape)}"
            )


def assign_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Makes `tensors` the model's own, without copying them.

    Raises:
        CheckpointError: tensors that are not the model's; the model is then as it was.
    """
    check_tensors(model, tensors, source)
    for name, tensor in tensors.items():
        owner_name, _, field = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        if field in owner._buffers:
            owner._buffers[field] = tensor
        else:
            owner._parameters[field] = nn.Parameter(tensor, requires_grad=False)


def empty_like_meta(build: type[nn.Module], *args: object) -> nn.Module:
    """A model without memory for its weights, to be filled by `assign_tensors`."""
    with torch.device("meta"):
        return build(*args)


def cast_floats(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Floating tensors in `dtype`, the others as they are."""
    for name, tensor in tensors:
        yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
