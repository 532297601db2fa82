"""A stand-in for CUDA graphs on the CPU."""

from __future__ import annotations

from collections.abc import Callable


class CallingDevice:
    """Captures nothing and calls again: the very operators of a graph, on the very buffers.

    Args:
        log: notes when a step is launched, and when it is waited for.
        bytes_each: that a graph is said to take.
    """

    can_pin = False

    def __init__(self, log: list[str] | None = None, bytes_each: int = 0) -> None:
        self.captured = 0
        self._log = [] if log is None else log
        self._bytes_each = bytes_each

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        call()
        self.captured += 1
        return call

    def mark(self) -> None:
        self._log.append("launched")

    def wait(self) -> None:
        self._log.append("waited")

    def used_bytes(self) -> int:
        return self.captured * self._bytes_each


class FailingDevice(CallingDevice):
    """Fails at the capture of a number."""

    def __init__(self, at: int, error: Exception) -> None:
        super().__init__()
        self._at, self._error = at, error

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        if self.captured == self._at:
            raise self._error
        return super().capture(call)
