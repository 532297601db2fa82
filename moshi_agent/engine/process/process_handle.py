"""A process of an engine with the pipe to talk with it."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.process import child
from moshi_agent.engine.process.channel import Channel

_EXIT_S = 10.0  # that a process may take to end after its last word


class ProcessHandle:
    """Starts a process, which loads the engine and says so. Raises OSError where that cannot be."""

    def __init__(self, config: EngineConfig) -> None:
        # A spawned process shares no lock, thread or CUDA context with this one, as a forked one would.
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        level = logging.getLogger("moshi_agent.engine").getEffectiveLevel()
        self._process = context.Process(
            target=child.run, args=(config, its, level), name="moshi-engine", daemon=True
        )
        try:
            self._process.start()
        except BaseException:
            mine.close()
            raise
        finally:
            its.close()  # the process alone holds it now: when it ends, the pipe does
        self.channel = Channel(mine)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def messages(self) -> Iterator[Any]:
        """Returns what the process says, until it ends."""
        return self.channel.receive()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def end(self) -> str:
        """Waits for the end of a process that says nothing more; returns how it ended, in words."""
        self._process.join(_EXIT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.channel.close()
        return _in_words(self._process.exitcode)


def _in_words(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was ended by signal {-exit_code}, {signal.strsignal(-exit_code)}"
    return f"ended with exit code {exit_code}"
