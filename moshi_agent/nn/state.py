"""Streaming state: dataclasses of tensors whose leading dimension is the row of the batch.

A row of zeros is a conversation that has not begun, in every state there is. So one rule resets,
copies, saves and restores rows, whatever the module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass
class State:
    """Base of all streaming states. Fields are tensors, states, lists of states, or None."""

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of this state and of those inside it, in a fixed order; each is `[rows, ...]`."""
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
        """The first rows alone, as views: what is written to them is written here."""
        fields = dataclasses.fields(self)
        return type(self)(**{field.name: _first_rows(getattr(self, field.name), rows) for field in fields})

    def copy_row(self, source: int, target: int) -> None:
        for tensor in self.tensors():
            tensor[target].copy_(tensor[source])

    def save_row(self, row: int) -> list[Tensor]:
        """A copy of one row, to be given to `load_row` of any state of the same shape."""
        return [tensor[row].clone() for tensor in self.tensors()]

    def load_row(self, row: int, saved: list[Tensor]) -> None:
        for tensor, value in zip(self.tensors(), saved, strict=True):
            tensor[row].copy_(value)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, State):
        yield from value.tensors()
    elif isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _tensors(item)  # pyright: ignore[reportUnknownArgumentType]


def _first_rows(value: Any, rows: int) -> Any:
    if isinstance(value, Tensor):
        return value[:rows]
    if isinstance(value, State):
        return value.first_rows(rows)
    if isinstance(value, list):
        return [_first_rows(item, rows) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def keep(old: Tensor, new: Tensor, exec_mask: Tensor | None) -> None:
    """Writes `new` over `old` in the rows that execute. [B, ...], [B, ...], [B] bool or None for all."""
    if exec_mask is None:
        old.copy_(new)
    else:
        torch.where(exec_mask.view(-1, *[1] * (old.dim() - 1)), new, old, out=old)
