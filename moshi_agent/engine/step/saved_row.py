"""A conversation's row, taken out of the state between two steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.config import ReferenceKind
from moshi_agent.engine.step.step_tensors import NO_REFERENCE, ReferenceRow
from moshi_agent.errors import InputError


@dataclass
class SideInputs:
    """Holds what a row's steps have read beside its tokens, by the number of the step. Few of them do."""

    embeddings: dict[int, NDArray[np.float32]] = field(
        default_factory=dict[int, NDArray[np.float32]]
    )  # [dim]
    references: dict[int, int | ReferenceRow] = field(default_factory=dict[int, int | ReferenceRow])

    def since(self, step: int) -> SideInputs:
        """Returns a copy of those of this step and later ones."""
        embeddings = {at: one for at, one in self.embeddings.items() if at >= step}
        return SideInputs(embeddings, {at: one for at, one in self.references.items() if at >= step})

    def refer(self, step: int, reference: int | ReferenceRow, history: int) -> None:
        """Notes what a step reads, and forgets what was read more than `history` steps before."""
        while self.references and (oldest := next(iter(self.references))) < step - history:
            del self.references[oldest]
        self.references[step] = reference

    def save(self) -> dict[str, Any]:
        """Returns arrays, to be given to `load_side_inputs`."""
        return {
            "embedding_steps": np.array([*self.embeddings], np.int64),
            "embeddings": _stacked(self.embeddings, np.float32),
            "reference_steps": np.array([*self.references], np.int64),
            "references": _stacked(self.references, np.int64),
        }

    def check(self, steps: int, kind: ReferenceKind | None, dim: int, most_token: int) -> None:
        """Raises InputError unless a row that has taken so many steps may have read this.

        Args:
            kind: how the model takes references.
            dim: of its temporal transformer.
            most_token: the largest token of a reference.
        """
        if not all(0 <= step < steps for step in (*self.embeddings, *self.references)):
            raise InputError("a row with inputs of steps that it has not taken")
        rows = list(self.embeddings.values())
        rows += [one for one in self.references.values() if isinstance(one, np.ndarray)]
        if not all(row.shape == (dim,) and np.isfinite(row).all() for row in rows):
            raise InputError(f"a row with inputs that are not finite numbers, [{dim}]")
        for one in self.references.values():
            if kind != ("rows" if isinstance(one, np.ndarray) else "tokens"):
                raise InputError(f"a row with references of another model; this one takes: {kind or 'none'}")
            if not isinstance(one, np.ndarray) and not NO_REFERENCE <= one <= most_token:
                raise InputError("a row with a reference of tokens that the model lacks")


def load_side_inputs(saved: Mapping[str, Any]) -> SideInputs:
    """Reads what `SideInputs.save` gave. Raises ValueError or TypeError for other arrays."""
    embeddings = dict(zip(_steps(saved["embedding_steps"]), _rows(saved["embeddings"]), strict=True))
    steps, references = _steps(saved["reference_steps"]), saved["references"]
    if isinstance(references, np.ndarray) and references.dtype == np.int64 and references.ndim == 1:
        return SideInputs(embeddings, dict(zip(steps, references.tolist(), strict=True)))
    return SideInputs(embeddings, dict(zip(steps, _rows(references), strict=True)))


def _stacked(by_step: Mapping[int, Any], dtype: type[np.generic]) -> NDArray[Any]:
    """[n] or [n, dim]; [0] of this type where there is nothing."""
    values = [np.asarray(one) for one in by_step.values()]
    return np.stack(values) if values else np.empty(0, dtype)


def _steps(saved: object) -> list[int]:
    if not isinstance(saved, np.ndarray) or saved.dtype != np.int64 or saved.ndim != 1:
        raise ValueError("steps that are no numbers")
    return saved.tolist()


def _rows(saved: object) -> list[NDArray[np.float32]]:
    if not isinstance(saved, np.ndarray) or saved.dtype != np.float32:
        raise ValueError("inputs of steps that are no rows of numbers")
    return list(saved)


@dataclass(frozen=True)
class SavedRow:
    """Holds the row of a conversation after so many steps of the language model."""

    tensors: list[Tensor] = field(repr=False)  # of its state, as `State.save_row` gives them
    steps: int
    side: SideInputs = field(default_factory=SideInputs, repr=False)
    is_compact: bool = False  # without the language model's caches, which `RowStates.recall` computes anew

    @property
    def num_bytes(self) -> int:
        """Counts the bytes of the state."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def moved(self, take: Callable[[list[Tensor]], list[Tensor]]) -> SavedRow:
        """Returns it with what `take` makes of the tensors, such as copies on the host."""
        return replace(self, tensors=take(self.tensors))
