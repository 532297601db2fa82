"""What several users in a process share by what it was made from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from moshi_agent.errors import EngineUnhealthy

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass
class _Entry(Generic[Value]):
    made: Future[Value]
    users: int = 0


class Shared(Generic[Key, Value]):
    """Makes a value once for all who ask by the same key, and tells when the last of them lets go.

    Values of different keys are made at the same time, and nobody who lets go waits for one to be made.
    """

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry[Value]] = {}
        self._lock = threading.Lock()  # held for moments, never while something is made

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Returns the value of a key, made here or by whoever has asked first.

        Raises what `make` raises, to all who wait for it; the next one to ask then begins anew.
        """
        with self._lock:
            is_first = key not in self._entries
            entry = self._entries.setdefault(key, _Entry(Future()))
            entry.users += 1
        if is_first:
            self._make(key, entry, make)
        try:
            return entry.made.result()
        except BaseException:  # also of who is interrupted while another one makes it
            with self._lock:
                entry.users -= 1
            raise

    def _make(self, key: Key, entry: _Entry[Value], make: Callable[[], Value]) -> None:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._entries[key]
            interrupted = EngineUnhealthy("the load that this one waited for was interrupted")
            entry.made.set_exception(error if isinstance(error, Exception) else interrupted)
            raise
        entry.made.set_result(value)

    def release(self, key: Key, value: Value) -> bool:
        """Lets go of a value. Returns whether nobody has it any more, as of one that was never shared."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not entry.made.done() or entry.made.result() is not value:
                return True
            entry.users -= 1
            if not entry.users:
                del self._entries[key]
            return not entry.users
