"""A process of an engine with the pipe and the memory to talk with it."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.process import child
from moshi_agent.engine.process.channel import Channel
from moshi_agent.engine.process.messages import Attached
from moshi_agent.engine.process.rings import Rings

_EXIT_S = 10.0  # that a process may take to end after its last word


class ProcessHandle:
    """Starts a process, which loads the engine and says so. Raises OSError where that cannot be."""

    def __init__(self, config: EngineConfig) -> None:
        # A spawned process shares no lock, thread or CUDA context with this one, as a forked one would.
        context = multiprocessing.get_context("spawn")
        self._rings = Rings.create()
        self._rings_have_a_name = True
        mine, its = context.Pipe()
        level = logging.getLogger("moshi_agent.engine").getEffectiveLevel()
        self._process = context.Process(
            target=child.run, args=(config, its, self._rings.name, level), name="moshi-engine", daemon=True
        )
        try:
            self._process.start()
        except BaseException:
            mine.close()
            self._free_rings()
            raise
        finally:
            its.close()  # the process alone holds it now: when it ends, the pipe does
        self.channel = Channel(mine, self._rings.to_engine, self._rings.from_engine)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def messages(self) -> Iterator[Any]:
        """What the process says, until it ends."""
        for message in self.channel.receive():
            if isinstance(message, Attached):
                self._rings.unlink()
                self._rings_have_a_name = False
            else:
                yield message

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
        self._free_rings()
        return _in_words(self._process.exitcode)

    def _free_rings(self) -> None:
        if self._rings_have_a_name:
            self._rings.unlink()
        self._rings.close()


def _in_words(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was ended by signal {-exit_code}, {signal.strsignal(-exit_code)}"
    return f"ended with exit code {exit_code}"
