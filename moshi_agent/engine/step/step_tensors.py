"""What goes into a frame step and what comes out of it: rows on the host, tensors on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.audio.framing import Frame
from moshi_agent.config import ReferenceKind
from moshi_agent.models.generator import ANY_TEXT
from moshi_agent.nn.embedding import UNGENERATED_TOKEN

Tokens = NDArray[np.int64]  # [streams], text first
ReferenceRow = NDArray[np.float32]  # [dim]
Reference = tuple[int, ...] | NDArray[np.float32]  # a token or a row for each of some frames, rows [n, dim]

NO_REFERENCE = -2  # in place of a token
_ALIGNED_BYTES = 8  # where a number of any type may begin


@dataclass(frozen=True, kw_only=True)
class RowInput:
    """What one row is given in a step."""

    row: int
    pcm: Frame | None  # None: the language model takes a step without the codec hearing anything
    forced: Tokens | None = None  # [streams] tokens of every stream to take where they are not -2
    next_piece: int = ANY_TEXT  # the one piece of text that may come now, beside padding
    reference: int | ReferenceRow | None = None  # of what to speak about, as the model takes it


@dataclass(frozen=True, kw_only=True)
class RowOutput:
    """What one row has given in a step."""

    audio: Frame | None  # [1920]; None before the model's first whole frame
    text: int  # the token that goes with `audio`; -2 without one
    next_text: int  # the token taken in this step, `max_delay` frames ahead of `text`
    healthy: bool  # False: some number in this row is no number any more
    heads: tuple[float, ...] = ()  # the first probability of each extra head


@dataclass(frozen=True, kw_only=True)
class StepTensors:
    """The input of a step on the device, for its first n rows. A mask of None is all of them."""

    pcm: Tensor  # [n, 1, 1920]
    hears: Tensor | None  # [n] bool, rows whose codec hears `pcm`
    steps: Tensor | None  # [n] bool, rows whose language model takes a step
    forced: Tensor | None  # [n, streams] int64
    next_piece: Tensor | None  # [n] int64
    references: Tensor | None = None  # [n] int64 or [n, dim] float32


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """The sizes of an engine's steps."""

    rows: int
    frame_size: int  # samples
    streams: int
    context: int  # positions of the temporal transformer's cache
    device: torch.device
    heads: int = 0  # extra heads of the language model
    references: ReferenceKind | None = None  # how the model takes them
    dim: int = 0  # of a row of a reference


@dataclass(frozen=True, kw_only=True)
class _Buffers:
    """Tensors of `[rows, ...]` that stay where they are from step to step."""

    packed: Tensor | None = None  # [bytes] uint8, in which the small ones lie one after the other

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self) if field.name != "packed"]

    def first_rows(self, rows: int) -> Self:
        """The first rows alone, as views."""
        names = [field.name for field in fields(self) if field.name != "packed"]
        return type(self)(**{name: getattr(self, name)[:rows] for name in names})

    def copy_rows(self, source: Self, rows: int) -> None:
        """Takes the first rows of `source`, without waiting where either is on a device."""
        pairs = zip(self.tensors(), source.tensors(), strict=True)
        if self.packed is not None and source.packed is not None:
            # At once, and of all rows: a launch costs more than what is small.
            self.packed.copy_(source.packed, non_blocking=True)
            pairs = [(here, there) for here, there in pairs if not _lies_in(here, self.packed)]
        for here, there in pairs:
            if here.numel():
                here[:rows].copy_(there[:rows], non_blocking=True)


def _in_one_piece(
    rows: int, parts: Mapping[str, tuple[Sequence[int], torch.dtype]], where: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Makes zeros, [rows, *sizes] for each part, one after the other in `packed`."""
    firsts, num_bytes = dict[str, int](), 0
    for name, (sizes, dtype) in parts.items():
        firsts[name] = num_bytes
        num_bytes += -(-rows * math.prod(sizes) * dtype.itemsize // _ALIGNED_BYTES) * _ALIGNED_BYTES
    packed = torch.zeros(num_bytes, dtype=torch.uint8, **where)
    tensors = {"packed": packed}
    for name, (sizes, dtype) in parts.items():
        last = firsts[name] + rows * math.prod(sizes) * dtype.itemsize
        tensors[name] = packed[firsts[name] : last].view(dtype).view(rows, *sizes)
    return tensors


def _lies_in(tensor: Tensor, packed: Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()


@dataclass(frozen=True, kw_only=True)
class InputBuffers(_Buffers):
    """The input of steps; fields as those of `StepTensors`, every mask there."""

    pcm: Tensor
    hears: Tensor
    steps: Tensor
    forced: Tensor
    next_piece: Tensor
    references: Tensor  # [n, 0] where the model takes none

    @staticmethod
    def new(shape: StepShape, device: torch.device, pinned: bool = False) -> InputBuffers:
        """Buffers without any input; on the host they may be `pinned`, so that copying need not wait."""
        rows = shape.rows
        where: dict[str, Any] = {"device": device, "pin_memory": pinned}
        small: dict[str, tuple[Sequence[int], torch.dtype]] = {
            "hears": ((), torch.bool),
            "steps": ((), torch.bool),
            "forced": ((shape.streams,), torch.long),
            "next_piece": ((), torch.long),
        }
        pcm = torch.zeros(rows, 1, shape.frame_size, dtype=torch.float32, **where)
        references = _no_references(shape, where)
        buffers = InputBuffers(pcm=pcm, references=references, **_in_one_piece(rows, small, where))
        buffers.clear(rows)
        return buffers

    def clear(self, rows: int) -> None:
        """Takes the input out of the first rows."""
        nothing = (0, 0, 0, UNGENERATED_TOKEN, ANY_TEXT, _nothing(self.references))
        for tensor, value in zip(self.tensors(), nothing, strict=True):
            tensor[:rows].fill_(value)

    def fill(self, rows: int, inputs: Sequence[RowInput]) -> None:
        """Takes the inputs, on the host; among the first `rows`, those without one do nothing."""
        self.clear(rows)
        pcm, hears, steps, forced, next_piece, references = (tensor.numpy() for tensor in self.tensors())
        for given in inputs:
            steps[given.row] = True
            next_piece[given.row] = given.next_piece
            if given.pcm is not None:
                hears[given.row], pcm[given.row, 0] = True, given.pcm
            if given.forced is not None:
                forced[given.row] = given.forced
            if given.reference is not None:
                references[given.row] = given.reference

    def whole(self) -> StepTensors:
        """Returns these buffers as the input of a step, without regard to what they hold."""
        return StepTensors(
            pcm=self.pcm,
            hears=self.hears,
            steps=self.steps,
            forced=self.forced,
            next_piece=self.next_piece,
            references=self.references if self.references.numel() else None,
        )

    def compact(self, device: torch.device) -> StepTensors:
        """Returns these buffers, on the host, as the input of a step on `device`.

        What says nothing is left out.
        """
        return StepTensors(
            pcm=self.pcm.to(device),
            hears=None if self.hears.all() else self.hears.to(device),
            steps=None if self.steps.all() else self.steps.to(device),
            forced=None if (self.forced == UNGENERATED_TOKEN).all() else self.forced.to(device),
            next_piece=None if (self.next_piece == ANY_TEXT).all() else self.next_piece.to(device),
            references=None if self._has_no_references else self.references.to(device),
        )

    @property
    def _has_no_references(self) -> bool:
        return bool((self.references == _nothing(self.references)).all())


def _no_references(shape: StepShape, where: dict[str, Any]) -> Tensor:
    if shape.references == "rows":
        return torch.zeros(shape.rows, shape.dim, dtype=torch.float32, **where)
    sizes = (shape.rows,) if shape.references == "tokens" else (shape.rows, 0)
    return torch.full(sizes, NO_REFERENCE, **where)


def _nothing(references: Tensor) -> int:
    return 0 if references.is_floating_point() else NO_REFERENCE


@dataclass(frozen=True, kw_only=True)
class ResultTensors(_Buffers):
    """The output of a step."""

    audio: Tensor  # [n, 1920] float32
    text: Tensor  # [n] int64, -2 in rows without output
    next_text: Tensor  # [n] int64, taken in this step
    speaks: Tensor  # [n] bool, rows with audio
    healthy: Tensor  # [n] bool
    heads: Tensor  # [n, heads] float32, the first probability of each extra head

    @staticmethod
    def new(shape: StepShape, device: torch.device, pinned: bool = False) -> ResultTensors:
        """Buffers for the output of all rows."""
        rows = shape.rows
        where: dict[str, Any] = {"device": device, "pin_memory": pinned}
        small: dict[str, tuple[Sequence[int], torch.dtype]] = {
            "text": ((), torch.long),
            "next_text": ((), torch.long),
            "speaks": ((), torch.bool),
            "healthy": ((), torch.bool),
            "heads": ((shape.heads,), torch.float32),
        }
        audio = torch.zeros(rows, shape.frame_size, dtype=torch.float32, **where)
        return ResultTensors(audio=audio, **_in_one_piece(rows, small, where))

    def to_host(self) -> ResultTensors:
        """Returns the same on the host."""
        return ResultTensors(**{name: one.cpu() for name, one in vars(self).items() if one is not None})

    def outputs(self, rows: Sequence[int]) -> list[RowOutput]:
        """Returns what these rows have given, as copies; on the host."""
        text, next_text, speaks, healthy, heads = (tensor.tolist() for tensor in self.tensors()[1:])
        audio: Frame = self.audio.numpy()
        return [
            RowOutput(
                audio=audio[row].copy() if speaks[row] else None,
                text=text[row],
                next_text=next_text[row],
                healthy=healthy[row],
                heads=tuple(heads[row]),
            )
            for row in rows
        ]
