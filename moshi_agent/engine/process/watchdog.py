"""Notices an engine that hangs: one that has died says so itself, by the end of its pipe."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from moshi_agent.engine.commands import Ping
from moshi_agent.engine.process.engine_process import EngineProcess

_log = logging.getLogger("moshi_agent.engine")
_SLICES = 4  # of the time: where this process itself was stopped, one of them is over at once, not all


class Watchdog:
    """Asks the process that serves, again and again, and ends one that does not answer.

    Args:
        hang_s: without an answer, after which the process is ended.
        current: the process of now.
    """

    def __init__(self, hang_s: float, current: Callable[[], EngineProcess]) -> None:
        self._slice_s = hang_s / _SLICES
        self._hang_s = hang_s
        self._current = current
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="moshi-engine-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watches no more."""
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(self._slice_s):
            process = self._current()
            if process.is_serving and not self._answers(process.ask(Ping())) and not self._is_over.is_set():
                _log.error(
                    "the engine's process %s has not answered for %g s, and is ended",
                    *(process.pid, self._hang_s),
                    extra={"pid": process.pid, "seconds": self._hang_s},
                )
                process.is_serving = False
                process.kill()

    def _answers(self, answer: Future[Any]) -> bool:
        """Whether an answer comes in time; an error is one."""
        for _ in range(_SLICES):
            try:
                answer.exception(self._slice_s)
            except TimeoutError:
                continue
            return True
        return False
