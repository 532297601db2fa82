"""Which row of the batch a conversation has: live conversations fill the first rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from moshi_agent.errors import EngineFull

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Move:
    """The conversation of row `source` is to be in row `target` from now on."""

    source: int
    target: int


class Slots(Generic[Key]):
    """Gives each of at most `capacity` conversations a row; the *n* live ones have rows 0 to *n* - 1.

    Iterates over the conversations in the order of their rows.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"slots need a capacity of at least one row, not {capacity}")
        self.capacity = capacity
        self._keys: list[Key] = []  # by row
        self._rows: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def claim(self, key: Key) -> int:
        """Gives a new conversation the first free row.

        Raises:
            EngineFull: every row is taken.
            ValueError: the conversation has a row.
        """
        if key in self._rows:
            raise ValueError(f"{key!r} has row {self._rows[key]} already")
        if len(self) == self.capacity:
            raise EngineFull(f"no row is free: {len(self)} conversations, capacity {self.capacity}")
        row = len(self)
        self._keys.append(key)
        self._rows[key] = row
        return row

    def release(self, key: Key) -> Move | None:
        """Frees the row of a conversation; the last row moves into the gap, unless it was the last itself.

        Raises:
            KeyError: the conversation has no row.
        """
        gap = self._rows.pop(key)
        last = self._keys.pop()
        if gap == len(self):
            return None
        self._keys[gap] = last
        self._rows[last] = gap
        return Move(source=len(self), target=gap)

    def row_of(self, key: Key) -> int:
        """Returns the row of a conversation. Raises KeyError if it has none."""
        return self._rows[key]

    def key_at(self, row: int) -> Key:
        """Returns the conversation of a row. Raises IndexError if the row is free."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is free: {len(self)} rows are taken")
        return self._keys[row]
