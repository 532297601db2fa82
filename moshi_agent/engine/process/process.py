"""The engine in a process of its own, begun again when it dies.

An eager step beside a busy Python thread takes many times as long as alone, so a server keeps its own work
out of the engine's process. Frames carry `time.monotonic` across: on Linux it is one clock for all processes.

    ProcessBackend  what a session talks to; starts one `EngineProcess` after the other
    EngineProcess   one process, and what it owes: answers and events
    ProcessHandle   the process itself, with a `Channel` over a pipe
    child.run       what goes on in it
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from moshi_agent.engine.birthplace import Birthplace
from moshi_agent.engine.capacity import Capacity
from moshi_agent.engine.commands import Command, Drain, Stop
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.event_queue import Outlet
from moshi_agent.engine.inbox import CLOSED, NOT_STARTED
from moshi_agent.engine.metrics.metrics import EngineMetrics, Metrics
from moshi_agent.engine.model_facts import ModelFacts
from moshi_agent.engine.process.engine_process import EngineProcess
from moshi_agent.engine.process.messages import About
from moshi_agent.engine.process.watchdog import Watchdog
from moshi_agent.engine.prompt.prompt import Prompt, PromptSource
from moshi_agent.errors import EngineUnhealthy, MoshiAgentError
from moshi_agent.plural import counted

_log = logging.getLogger("moshi_agent.engine")
_WHERE_IT_MAY_BEGIN = (
    "; a program with an engine's process has to be a file, as Python begins the process by importing it "
    '(not `python -`), and has to load the engine under `if __name__ == "__main__":`'
)
_STOP_S = 10.0  # that the process may take to end its conversations and itself
_ANSWER_S = 2.0  # that a process which is alive takes at most to say how it is
_NO_ANSWER = f"the engine's process has not answered within {_ANSWER_S:g} s"


class RestartPauses:
    """How long to wait before another process begins: at first not at all, then longer with each.

    Args:
        first_s: before the second in a row; twice as long before each one after it.
        most_s: at most.
        well_s: a process that has lived for so long ends the row.
    """

    def __init__(self, first_s: float = 1.0, most_s: float = 60.0, well_s: float = 300.0) -> None:
        self._first_s, self._most_s, self._well_s = first_s, most_s, well_s
        self._next_s = 0.0
        self._begun: float | None = None
        self.taken = 0

    def take(self, now: float) -> float:
        """Counts a restart at this time, in seconds. Returns for how long it has to wait."""
        if self._begun is not None and now - self._begun >= self._well_s:
            self._next_s = 0.0
        pause_s = self._next_s
        self._next_s = min(self._most_s, 2 * pause_s) if pause_s else self._first_s
        self._begun = now + pause_s
        self.taken += 1
        return pause_s


class ProcessBackend:
    """Runs a `LocalBackend` in a process of its own; loads as it is made.

    When the process dies, its conversations end with the reason `engine_lost`, what was asked of it fails
    with EngineUnhealthy, and another one begins: at once, or after a pause that grows with each that dies.
    Meanwhile nobody is taken; `start` waits.

    As with all that `multiprocessing` spawns, a script must do this under `if __name__ == "__main__":`.

    Args:
        config: of the engine.
        restarts: how long each of them waits.

    Raises:
        ConfigError, CheckpointError: as `LocalBackend`.
        EngineUnhealthy: the process cannot be started, or has ended before it was loaded.
    """

    def __init__(self, config: EngineConfig, restarts: RestartPauses | None = None) -> None:
        self.config = config
        self._birthplace = Birthplace()
        self.restarts = restarts or RestartPauses()
        self.lost_sessions = 0
        self.metrics = RemoteMetrics(self)
        self._lock = threading.Lock()
        self._process = EngineProcess()
        self._is_started = self._is_draining = self._has_given_up = False
        self._stopping = threading.Event()
        self._watchdog = None if config.hang_s is None else Watchdog(config.hang_s, lambda: self._process)
        self._thread = threading.Thread(target=self._supervise, name="moshi-engine-process", daemon=True)
        self._thread.start()
        # Before the standard library ends the process at exit, which would look like a death.
        atexit.register(self.stop)
        try:
            self._process.loaded.result()
        except BaseException:
            self.stop()
            raise

    @property
    def is_restarting(self) -> bool:
        """Whether it is between the death of a process and the next one's first conversation."""
        return self._is_started and self.restarts.taken > 0 and not self._process.is_serving

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid

    def start(self) -> None:
        """Begins to serve, or waits until the process serves again. Returns when it does."""
        self._birthplace.check()
        self._is_started = True
        process = self._process
        process.loaded.result()
        process.ask(About.START).result()
        process.is_serving = True

    def stop(self) -> None:
        """Ends every conversation and the process. In a fork of the program it is not for us to end."""
        if not self._birthplace.is_here:
            return
        with self._lock:
            self._stopping.set()
            process = self._process
        if self._watchdog is not None:
            self._watchdog.stop()
        if process.is_loaded:
            process.send(Stop())
        else:
            process.kill()
        atexit.unregister(self.stop)
        if threading.current_thread() is self._thread:
            return
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            process.kill()
            self._thread.join()

    def send(self, command: Command) -> None:
        """Hands over a command that needs no answer."""
        if not self._birthplace.is_here:
            return
        if isinstance(command, Drain):
            self._is_draining = True
        self._process.send(command)

    def request(self, command: Command, outlet: Outlet | None = None) -> Future[Any]:
        """Hands over a command and returns its answer to come."""
        process, refusal = self._process, self._birthplace.refusal
        if refusal is None and process.is_serving:
            return process.ask(command, outlet)
        refused: Future[Any] = Future()
        refused.set_exception(refusal or EngineUnhealthy(self._refusal()))
        return refused

    def ask(self, question: About | PromptSource) -> Future[Any]:
        """Does as `request` does, for what needs no engine that serves. Raises EngineUnhealthy in a fork."""
        self._birthplace.check()
        return self._process.ask(question)

    def prompt(self, source: PromptSource) -> Prompt:
        """Returns the tokens of a prompt. Takes its time, in a thread of the process."""
        return self.ask(source).result()

    def capacity(self) -> Capacity:
        """Says what fits, as measured. Raises EngineUnhealthy while there is no process that answers."""
        try:
            return self._as_it_is(self.ask(About.CAPACITY).result(_ANSWER_S))
        except TimeoutError as error:
            raise EngineUnhealthy(_NO_ANSWER) from error

    async def capacity_async(self) -> Capacity:
        """Does as `capacity` does, for an event loop."""
        try:
            return self._as_it_is(await _within(self.ask(About.CAPACITY)))
        except TimeoutError as error:
            raise EngineUnhealthy(_NO_ANSWER) from error

    def _as_it_is(self, capacity: Capacity) -> Capacity:
        if self._process.is_serving:
            return capacity
        return replace(capacity, free=0, refusal=self._refusal())

    @cached_property
    def model(self) -> ModelFacts:
        """What the checkpoint is."""
        return self.ask(About.MODEL).result()

    def _refusal(self) -> str:
        if self._stopping.is_set():
            return CLOSED
        if not self._is_started:
            return NOT_STARTED
        if self._has_given_up:
            return "the engine's process has died while it drained, and is started no more"
        return "the engine's process is being started again"

    def _supervise(self) -> None:
        """One process after the other, until somebody stops it."""
        process, pause_s = self._process, 0.0
        while True:
            how = "is not wanted any more" if self._stopping.wait(pause_s) else process.run(self.config)
            is_wanted = process.is_loaded or self.restarts.taken > 0  # else `__init__` raises why it is not
            if not process.is_loaded:
                told = f": {process.loaded.exception()}" if process.loaded.done() else _WHERE_IT_MAY_BEGIN
                how += f" before it was loaded{told}"
            # Whoever hears of the end finds it counted, and the next process in its place.
            self.lost_sessions += process.sessions
            successor = self._successor() if is_wanted else None
            if successor is not None:
                pause_s = self.restarts.take(time.monotonic())
            if is_wanted and not self._stopping.is_set():
                self._log_loss(how, process.sessions, None if successor is None else pause_s)
            closed = self._stopping.is_set()
            process.fail(EngineUnhealthy(CLOSED if closed else f"the engine's process {how}"))
            if successor is None:
                return
            process = successor

    def _log_loss(self, how: str, lost: int, pause_s: float | None) -> None:
        starts_again = pause_s is not None
        next_ = "none is started any more"
        if starts_again:
            next_ = "another one is started" + (f" in {pause_s:g} s" if pause_s else "")
        _log.error(
            "engine process lost: it %s; %s lost; %s, %s so far",
            *(how, counted(lost, "conversation"), next_, counted(self.restarts.taken, "restart")),
            extra={"how": how, "lost": lost, "restarts": self.restarts.taken, "starts_again": starts_again},
        )

    def _successor(self) -> EngineProcess | None:
        """What begins after a process; nothing for an engine that ends."""
        with self._lock:
            if self._stopping.is_set() or self._is_draining:
                self._has_given_up = True
                return None
            successor = self._process = EngineProcess()
        successor.loaded.add_done_callback(partial(self._go_on, successor))
        return successor

    def _go_on(self, process: EngineProcess, _loaded: Future[None]) -> None:
        if self._is_started and process.is_loaded:
            process.ask(About.START).add_done_callback(partial(_note_start, process))


def _note_start(process: EngineProcess, started: Future[None]) -> None:
    error = started.exception()
    process.is_serving = error is None
    if error is not None:
        _log.error("the engine's process does not start to serve: %s", error, exc_info=error)
        process.kill()
    else:
        pid = process.pid
        _log.info("the engine's process %s serves in place of the one that was lost", pid, extra={"pid": pid})


async def _within(answer: Future[Any]) -> Any:
    """The answer of a process. Raises TimeoutError where it does not come."""
    return await asyncio.wait_for(asyncio.wrap_future(answer), _ANSWER_S)


class RemoteMetrics:
    """The figures of an engine in another process: since that process began, but for faults and restarts."""

    def __init__(self, backend: ProcessBackend) -> None:
        self._backend = backend
        self._last = Metrics().snapshot()

    def snapshot(self) -> EngineMetrics:
        """Returns the figures of now.

        The last known, and `healthy=False`, where the process cannot be asked.
        """
        try:
            self._last = self._backend.ask(About.METRICS).result(_ANSWER_S)
        except (MoshiAgentError, TimeoutError):
            self._last = replace(self._last, live_sessions=0, healthy=False)
        return self._of_all_processes()

    async def snapshot_async(self) -> EngineMetrics:
        """Does as `snapshot` does, for an event loop."""
        try:
            self._last = await _within(self._backend.ask(About.METRICS))
        except (MoshiAgentError, TimeoutError):
            self._last = replace(self._last, live_sessions=0, healthy=False)
        return self._of_all_processes()

    def _of_all_processes(self) -> EngineMetrics:
        last, backend = self._last, self._backend
        return replace(
            last,
            errors=last.errors + backend.lost_sessions,
            restarts=last.restarts + backend.restarts.taken,
            healthy=last.healthy and not backend.is_restarting,
        )
