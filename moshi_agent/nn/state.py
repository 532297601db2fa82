"""Streaming state: dataclasses of tensors whose leading dimension is the row of the batch.

A row of zeros is a conversation that has not begun, in every state there is. So one rule resets,
copies, saves and restores rows, whatever the module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from moshi_agent.errors import InputError


@dataclass
class State:
    """Is the base of all streaming states. Fields are tensors, states, lists of states, or of no row."""

    def tensors(self) -> Iterator[Tensor]:
        """Lists every tensor here and in the states inside, in a fixed order; each is `[rows, ...]`."""
        for field in dataclasses.fields(self):
            yield from _tensors(getattr(self, field.name))

    def reset(self, rows: Tensor | None = None) -> None:
        """Takes the rows that are True in `rows` ([B] bool; None is all) back to the beginning."""
        for tensor in self.tensors():
            if rows is None:
                tensor.zero_()
            else:
                tensor[rows] = 0

    def first_rows(self, rows: int) -> Self:
        """Returns the first rows alone, as views: what is written to them is written here."""
        return self._rows(slice(rows))

    def one_row(self, row: int) -> Self:
        """Returns one row alone, as a state of one row that is a view."""
        return self._rows(slice(row, row + 1))

    def _rows(self, rows: slice) -> Self:
        fields = dataclasses.fields(self)
        return type(self)(**{field.name: _rows(getattr(self, field.name), rows) for field in fields})

    def zero_row(self, row: int) -> None:
        """Makes the row a conversation that has not begun."""
        for tensor in self.tensors():
            tensor[row].zero_()

    def copy_row(self, source: int, target: int) -> None:
        for tensor in self.tensors():
            tensor[target].copy_(tensor[source])

    def row_parts(self, row: int) -> Iterator[Tensor]:
        """Lists views of all of a row that means anything, in a fixed order.

        How much that is may depend on parts that were given before, which `load_row` has then filled in.
        """
        for field in dataclasses.fields(self):
            yield from _row_parts(getattr(self, field.name), row)

    def save_row(self, row: int) -> list[Tensor]:
        """Copies one row, to be given to `load_row` of any state of the same shape."""
        return [part.clone() for part in self.row_parts(row)]

    def load_row(self, row: int, saved: Sequence[Tensor]) -> None:
        """Takes what `save_row` returned. Raises InputError, half-way, if it is of another state."""
        given = list(saved)
        for part in self.row_parts(row):
            if not given or (part.shape, part.dtype) != (given[0].shape, given[0].dtype):
                raise InputError("the row is of another model, or of a state that was set up otherwise")
            part.copy_(given.pop(0))
        if given:
            raise InputError("the row is of another model, or of a state that was set up otherwise")


def _row_parts(value: object, row: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value[row]
    elif isinstance(value, State):
        yield from value.row_parts(row)
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _row_parts(item, row)  # pyright: ignore[reportUnknownArgumentType]


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, State):
        yield from value.tensors()
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _tensors(item)  # pyright: ignore[reportUnknownArgumentType]


def _rows(value: Any, rows: slice) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, State):
        return value._rows(rows)  # pyright: ignore[reportPrivateUsage]
    if isinstance(value, list):
        return [_rows(item, rows) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def keep(old: Tensor, new: Tensor, exec_mask: Tensor | None) -> None:
    """Writes `new` over `old` in the rows that execute. [B, ...], [B, ...], [B] bool or None for all."""
    if exec_mask is None:
        old.copy_(new)
    else:
        torch.where(exec_mask.view(-1, *[1] * (old.dim() - 1)), new, old, out=old)
