"""A conversation as bytes: its row of the state and what the host keeps of it, in the safetensors format."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moshi_agent.audio.framing import FRAME_SAMPLES
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.call.opening import PrefillFrame, PromptFrame, PromptStep
from moshi_agent.engine.commands import InputFrame
from moshi_agent.engine.step.saved_row import SavedRow, load_side_inputs
from moshi_agent.errors import InputError
from moshi_agent.saved import saved_value

_FORMAT = "moshi_agent conversation 3"
_LARGEST_HEADER = 1 << 24


@dataclass(frozen=True)
class Snapshot:
    """One conversation between two frames."""

    row: SavedRow
    sampling: SamplingConfig
    call: dict[str, Any] = field(repr=False)  # numbers, lists and arrays
    opening: tuple[PromptStep, ...] = ()  # steps that have to go before the next frame
    inputs: tuple[InputFrame, ...] = ()  # that wait
    heard: SavedRow | None = None  # of the recogniser, where one listens

    def moved(self, take: Callable[[list[Tensor]], list[Tensor]]) -> Snapshot:
        """Returns it with what `take` makes of the tensors, such as copies on the host."""
        return replace(self, row=self.row.moved(take), heard=self.heard and self.heard.moved(take))

    def check(self) -> None:
        """Raises InputError unless the input that waits is audio."""
        for frame in self.inputs:
            is_audio = _is(frame.pcm, (FRAME_SAMPLES,), np.float32) and bool(np.isfinite(frame.pcm).all())
            if not (is_audio and isinstance(frame.speaking, bool) and isinstance(frame.silent, bool)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError("a damaged snapshot of a conversation: input that is no audio")


def _is(array: object, shape: tuple[int, ...], dtype: DTypeLike) -> bool:
    return isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype


def pack_snapshot(snapshot: Snapshot) -> bytes:
    """Packs the snapshot as bytes, to be given to `unpack_snapshot`."""
    arrays: dict[str, Tensor] = {}
    facts = {
        "format": _FORMAT,
        "row": _packed_row(snapshot.row, "row", arrays),
        "heard": None if snapshot.heard is None else _packed_row(snapshot.heard, "heard", arrays),
        "sampling": asdict(snapshot.sampling),
        "call": _without_arrays(snapshot.call, "call", arrays),
        "opening": _without_arrays([asdict(frame) for frame in snapshot.opening], "opening", arrays),
        "inputs": _without_arrays([asdict(frame) for frame in snapshot.inputs], "inputs", arrays),
    }
    return save(arrays, {"moshi_agent": json.dumps(facts)})


def _packed_row(row: SavedRow, name: str, arrays: dict[str, Tensor]) -> dict[str, Any]:
    arrays |= {f"{name}.{i}": tensor.contiguous() for i, tensor in enumerate(row.tensors)}
    side = _without_arrays(row.side.save(), f"side of {name}", arrays)
    return {"steps": row.steps, "is_compact": row.is_compact, "side": side}


def unpack_snapshot(data: bytes) -> Snapshot:
    """Returns what `pack_snapshot` packed.

    Raises InputError for anything else; no byte of it is run as code.
    """
    try:
        facts = json.loads(_metadata(data)["moshi_agent"])
        if facts["format"] != _FORMAT:
            raise InputError(f"a snapshot of format {facts['format']!r}; accepted: {_FORMAT!r}")
        tensors = load(data)
        opening, inputs = (_with_arrays(facts[name], tensors) for name in ("opening", "inputs"))
        return Snapshot(
            row=_unpacked_row(facts["row"], "row", tensors),
            sampling=SamplingConfig(**facts["sampling"]),
            call=_with_arrays(facts["call"], tensors),
            opening=tuple(_opening_frame(frame) for frame in opening),
            inputs=tuple(InputFrame(**frame) for frame in inputs),
            heard=facts["heard"] and _unpacked_row(facts["heard"], "heard", tensors),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"no snapshot of a conversation, or a damaged one ({error})") from error


def _unpacked_row(facts: dict[str, Any], name: str, tensors: dict[str, Tensor]) -> SavedRow:
    return SavedRow(
        _numbered(tensors, name),
        saved_value(facts["steps"], int, "steps"),
        load_side_inputs(_with_arrays(facts["side"], tensors)),
        saved_value(facts["is_compact"], bool, "is_compact"),
    )


def _numbered(tensors: dict[str, Tensor], name: str) -> list[Tensor]:
    """`name.0`, `name.1`, ..."""
    return [tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors))]


def _opening_frame(values: dict[str, Any]) -> PromptStep:
    if not isinstance(values, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError("a step of a prompt that is none")
    is_prefill = "tokens" in values
    may_be_missing = (values.get("forced"), values.get("embeddings"))
    if is_prefill and not isinstance(values["tokens"], np.ndarray):
        raise ValueError("a step of a prompt without its tokens")
    if not all(isinstance(array, np.ndarray | None) for array in may_be_missing):
        raise ValueError("a step of a prompt with something else than arrays")
    return PrefillFrame(**values) if is_prefill else PromptFrame(**values)


def _metadata(data: bytes) -> dict[str, str]:
    """The text that a safetensors file carries: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 0 < length <= min(len(data) - 8, _LARGEST_HEADER):
        raise ValueError("not in the safetensors format")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def _without_arrays(value: Any, path: str, arrays: dict[str, Tensor]) -> Any:
    """The same value, with arrays replaced by their names."""
    if isinstance(value, np.ndarray):
        arrays[path] = torch.from_numpy(np.ascontiguousarray(value))
        return {"array": path}
    if isinstance(value, dict):
        return {key: _without_arrays(item, f"{path}.{key}", arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
    return value


def _with_arrays(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            array: NDArray[Any] = tensors[value["array"]].numpy()
            return array
        return {key: _with_arrays(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_arrays(item, tensors) for item in value]
    return value
