"""Tensors in safetensors files: mapped, checked, and put into a model all or not at all."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from moshi_agent.checkpoint.foreign import foreign_file, foreign_tensors
from moshi_agent.errors import CheckpointError

# What comes from one layer shares a mapping of the file, which ends with the last of it: whoever lets go
# of one layer after the other lets go of their pages.
_LAYER = re.compile(r"^.*?\.\d+\.|")


@dataclass(frozen=True)
class Stored:
    """Tensors of one checkpoint, and the file that each is in."""

    source: Path  # the file, or the index of several
    tensors: dict[str, Tensor]
    files: Mapping[str, Path] = field(default_factory=dict[str, Path])  # only where there are several
    written: Mapping[str, str] = field(default_factory=dict[str, str])  # names in the file, if others

    def file_of(self, name: str) -> Path:
        return self.files.get(name, self.source)

    def shown(self, names: Iterable[str]) -> str:
        """Returns the first few names, as the file writes them."""
        written = sorted({self.written.get(name, name) for name in names})
        shown = ", ".join(written[:4])
        return shown if len(written) <= 4 else f"{shown} and {len(written) - 4} more"


def reading_device(device: torch.device | str) -> str:
    """Chooses the device that files are mapped on for a model on `device`; "meta" has shapes alone."""
    return "meta" if str(device) == "meta" else "cpu"


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Reads every tensor of a safetensors file, mapped from it rather than read.

    Args:
        device: "cpu", or "meta" for shapes and types only.

    Raises:
        CheckpointError: no such file, or it is truncated or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    assert device in ("cpu", "meta"), "other devices get their tensors one by one, after the check"
    try:
        return dict(_mapped(path, device))
    except (SafetensorError, OSError) as error:
        reason = foreign_file(path) or f"not a whole safetensors file ({error})"
        raise CheckpointError(f"{path}: {reason}") from error


def tensor_names(path: Path) -> set[str]:
    """Returns the names of the tensors in a file, or in those of an index; none where it cannot be read."""
    try:
        return set(read_weight_map(path) if path.suffix == ".json" else read_tensors(path, "meta"))
    except CheckpointError:
        return set()


def _mapped(path: Path, device: str) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())
    for _, layer in itertools.groupby(names, _layer_of):
        with safe_open(path, framework="pt") as file:
            # On "meta" the mapped tensor is let go without having been read.
            yield from ((name, cast(Tensor, file.get_tensor(name)).to(device)) for name in layer)


def _layer_of(name: str) -> str:
    layer = _LAYER.match(name)
    return layer[0] if layer else ""


def read_stored(path: Path, device: str = "cpu") -> Stored:
    """Reads a checkpoint in one file, or in several by its `*.safetensors.index.json`.

    Raises:
        CheckpointError: a file or a tensor that the index names is missing or damaged.
    """
    if path.suffix != ".json":
        return Stored(path, read_tensors(path, device))
    weight_map = read_weight_map(path)
    tensors: dict[str, Tensor] = {}
    files: dict[str, Path] = {}
    for shard in sorted(set(weight_map.values())):
        file = path.parent / shard
        here = read_tensors(file, device)
        missing = [name for name, place in weight_map.items() if place == shard and name not in here]
        if missing:
            shown = Stored(file, here).shown(missing)
            raise CheckpointError(f"{file}: missing {shown}, which {path.name} says is in it")
        tensors |= here
        files |= dict.fromkeys(here, file)
    return Stored(path, tensors, files)


def read_weight_map(index: Path) -> dict[str, str]:
    """Reads which file holds each tensor. Raises CheckpointError where the file is no such index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no index of shards; it has no weight_map")
    named = {str(name): str(file) for name, file in cast("dict[object, object]", weight_map).items()}
    for file in set(named.values()):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise CheckpointError(
                f"{index}: {file[:100]!r} is outside of its folder; accepted: a file beside it"
            )
    return named


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object that a JSON file holds. Raises CheckpointError where it holds none."""
    try:
        values: object = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a JSON object is needed; it holds a {type(values).__name__}")
    return cast("dict[str, Any]", values)


def check_tensors(wanted: Mapping[str, Tensor], found: Stored) -> None:
    """Raises CheckpointError unless `found` are the tensors that are wanted, by name and shape."""
    missing, unexpected = set(wanted) - set(found.tensors), set(found.tensors) - set(wanted)
    foreign = foreign_tensors(unexpected)
    if foreign is not None:
        raise CheckpointError(f"{found.source}: {foreign}")
    if missing or unexpected:
        parts = [f"missing {found.shown(missing)}"] if missing else []
        parts += [f"unexpected {found.shown(unexpected)}"] if unexpected else []
        raise CheckpointError(f"{found.source}: tensors do not match the configuration: {'; '.join(parts)}")
    for name, tensor in found.tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{found.file_of(name)}: {found.shown([name])} has shape {list(tensor.shape)}; "
                f"the configuration asks for {list(wanted[name].shape)}"
            )
        # Floats of any width become the model's own, and int8 where they are rounded.
        if not tensor.is_floating_point() and tensor.dtype != wanted[name].dtype:
            raise CheckpointError(
                f"{found.file_of(name)}: {found.shown([name])} is stored as {tensor.dtype}; "
                f"the configuration asks for {wanted[name].dtype}"
            )


def assign_tensors(model: nn.Module, found: Stored, finish: Callable[[str, Tensor], Tensor]) -> None:
    """Makes the tensors the model's own, without a copy unless `finish` makes one. `found` is used up.

    Args:
        finish: gives a tensor the type and the place that it has in the model.

    Raises:
        CheckpointError: tensors that are not the model's; the model is then as it was.
    """
    check_tensors(model.state_dict(), found)
    for name in list(found.tensors):
        # Taken out, so that what was read for a copy is let go before the next one.
        tensor = finish(name, found.tensors.pop(name))
        owner_name, _, field = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        if field in dict(owner.named_buffers(recurse=False)):
            owner.register_buffer(field, tensor)
        else:
            owner.register_parameter(field, nn.Parameter(tensor, requires_grad=False))
