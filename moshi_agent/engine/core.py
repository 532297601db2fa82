"""The thread that owns the device: commands in, frame steps, events out."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.engine.capacity import StepTimes
from moshi_agent.engine.commands import (
    Close,
    Command,
    Drain,
    Finish,
    InputFrame,
    Key,
    Open,
    Say,
    SetSampling,
    Stop,
    TakeSnapshot,
)
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.frame_step import FrameStep
from moshi_agent.engine.line import Line, LineFrame, Model, Outlet, PromptFrame, TailFrame
from moshi_agent.engine.metrics import Metrics
from moshi_agent.engine.scheduler import Ready, Scheduler
from moshi_agent.engine.slots import Slots
from moshi_agent.engine.snapshot import Snapshot, pack_snapshot, unpack_snapshot
from moshi_agent.errors import EngineFull, EngineUnhealthy, InputError, MoshiAgentError, SessionClosed
from moshi_agent.events import EndReason

_log = logging.getLogger("moshi_agent.engine")
_MOST_PROMPTS = 16  # kept as snapshots, in host memory
_MOST_FAILURES = 3  # steps that fail one after the other before the engine gives up
_GREEDY = SamplingConfig(greedy=True)

Bell = Future[Any]


@dataclass(frozen=True, slots=True)
class _Request:
    command: Command
    reply: Bell | None
    outlet: Outlet | None


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: _Request
    until: float


class Core:
    """Runs conversations on a device. `run` belongs to one thread; `send` and `request` to anyone."""

    def __init__(
        self,
        step: FrameStep,
        model: Model,
        advised: SamplingConfig,
        config: EngineConfig,
        times: StepTimes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = Metrics()
        self.times = times
        self._step, self._model, self._advised, self._config = step, model, advised, config
        self._clock = clock
        self._inbox: SimpleQueue[_Request] = SimpleQueue()
        self._scheduler = Scheduler[Key, LineFrame](config.gather_ms / 1000)
        self._slots = Slots[Key](config.capacity)
        self._lines: dict[Key, Line] = {}
        self._waiting: deque[_Waiting] = deque()
        self._prompts: OrderedDict[str, tuple[list[Tensor], int]] = OrderedDict()
        self._failures = 0
        self._draining_until: float | None = None
        self._stopped = False

    def send(self, command: Command) -> None:
        """Hands over a command that needs no answer. One about a conversation that is over is ignored."""
        self._inbox.put(_Request(command, None, None))

    def request(self, command: Command, outlet: Outlet | None = None) -> Bell:
        """Hands over a command and returns its answer to come; `outlet` takes what an opened line says."""
        reply: Bell = Future()
        if self._stopped:
            reply.set_exception(EngineUnhealthy("the engine is closed"))
        else:
            self._inbox.put(_Request(command, reply, outlet))
        return reply

    def run(self) -> None:
        """Serves until `Stop`."""
        while not self._stopped:
            self._obey_all()
            batch = self._scheduler.batch(self._clock())
            if batch:
                self._take_step(batch)
            else:
                self._wait()
        self._refuse_the_rest()

    # Commands

    def _obey_all(self) -> None:
        while not self._inbox.empty() and not self._stopped:
            self._obey(self._inbox.get())
        self._watch_the_clock()

    def _wait(self) -> None:
        """Until the next command, or until silence or somebody's patience is due."""
        now = self._clock()
        times = [self._scheduler.wake_at(now), self._draining_until, *(w.until for w in self._waiting)]
        due = min((at for at in times if at is not None), default=None)
        try:
            request = self._inbox.get(timeout=None if due is None else max(0.0, due - now))
        except Empty:
            return
        self._obey(request)

    def _obey(self, request: _Request) -> None:
        try:
            answer = self._answer(request)
        except Exception as error:
            if not isinstance(error, MoshiAgentError):
                _log.exception("command failed", extra={"command": type(request.command).__name__})
            if request.reply is not None:
                request.reply.set_exception(error)
            return
        if request.reply is not None and not isinstance(answer, _Waiting):
            request.reply.set_result(answer)

    def _answer(self, request: _Request) -> object:
        command = request.command
        match command:
            case InputFrame():
                if command.key in self._lines:
                    self._scheduler.push(command.key, command, self._clock(), command.silent, command.chunk)
            case Open():
                return self._open(request, command)
            case Close():
                self._close(command.key)
            case Finish():
                self._finish(command.key)
            case Say():
                self._line(command.key).say(command.text)
            case SetSampling():
                self._set_sampling(command.key, command.sampling)
            case TakeSnapshot():
                return self._snapshot(command.key)
            case Drain():
                self._draining_until = self._clock() + command.seconds
            case Stop():
                self._stop()
        return None

    def _line(self, key: Key) -> Line:
        if key not in self._lines:
            raise SessionClosed("the conversation is over")
        return self._lines[key]

    def _open(self, request: _Request, command: Open) -> object:
        refusal = self._refusal()
        if refusal is None:
            self._admit(request, command)
            return None
        can_wait = isinstance(refusal, EngineFull) and self._draining_until is None
        if can_wait and len(self._waiting) < self._config.waiting:
            waiting = _Waiting(request, self._clock() + self._config.wait_timeout_s)
            self._waiting.append(waiting)
            return waiting
        self.metrics.refused()
        raise refusal

    def _refusal(self) -> MoshiAgentError | None:
        """Why no further conversation can be taken now, if so."""
        live, capacity = len(self._slots), self._config.capacity
        if self._failures >= _MOST_FAILURES:
            return EngineUnhealthy(f"the last {self._failures} frame steps failed; the engine takes nobody")
        if self._draining_until is not None:
            return EngineFull(f"the engine is shutting down; {live} conversations are still on")
        if live >= capacity:
            return EngineFull(f"no row is free: {live} conversations, capacity {capacity}")
        if live and self._config.admit_by_time and not self.times.has_room(live + 1):
            expected = self.times.expected_ms(live + 1)
            return EngineFull(
                f"no time is left: a step with {live + 1} conversations would take {expected:.0f} ms "
                f"of the {self.times.budget_ms:.0f} ms there are"
            )
        return None

    def _admit(self, request: _Request, command: Open) -> None:
        assert request.outlet is not None
        config = command.config
        prompt = config.prompt
        if prompt is not None and prompt.tokens.shape[1] != self._model.num_streams:
            raise InputError(
                f"a prompt of {prompt.tokens.shape[1]} streams; this model has {self._model.num_streams}"
            )
        snapshot = None if command.snapshot is None else unpack_snapshot(command.snapshot)
        sampling = config.sampling_or(self._advised, drawn_seed=hash((self._clock(), command.key)))
        if snapshot is not None and config.sampling is None and config.seed is None:
            sampling = snapshot.sampling
        line = Line(command.key, config, sampling, self._model, request.outlet)
        row = self._slots.take(command.key)
        try:
            opening = self._begin(row, line) if snapshot is None else self._resume(row, line, snapshot)
        except BaseException:
            self._release_row(command.key)
            raise
        self._lines[command.key] = line
        self._scheduler.add(command.key, self._clock(), line.pace, opening)
        self.metrics.opened(line.metrics)
        _log.info("opened", extra={"session": command.key, "row": row, "live": len(self._lines)})

    def _begin(self, row: int, line: Line) -> list[PromptFrame]:
        """Prepares the row of a conversation; returns the steps that have to go before its first frame."""
        prompt = line.config.prompt
        if prompt is None:
            self._step.begin_row(row, line.sampling)
            return line.opening()
        kept = self._prompts.get(_prompt_key(line))
        if kept is None:
            # Without chance: what is kept of it serves conversations with other seeds too.
            self._step.begin_row(row, _GREEDY)
            return line.opening()
        self._prompts.move_to_end(_prompt_key(line))
        self._step.begin_row(row, line.sampling)
        self._step.load_row(row, *kept)
        return []

    def _resume(self, row: int, line: Line, snapshot: Snapshot) -> list[PromptFrame]:
        self._step.begin_row(row, line.sampling)
        self._step.load_row(row, snapshot.check(self._step.state), snapshot.steps)
        line.load(snapshot.line)
        return []

    def _keep_prompt(self, line: Line, row: int) -> None:
        """The last step of a prompt is taken: from here on the conversation's own settings hold."""
        self._step.set_sampling(row, line.sampling)
        if line.config.prompt is None or line.frame:
            return
        self._prompts[_prompt_key(line)] = (self._step.save_row(row), self._step.steps_taken(row))
        while len(self._prompts) > _MOST_PROMPTS:
            self._prompts.popitem(last=False)

    def _finish(self, key: Key) -> None:
        if key not in self._lines:
            return
        line = self._lines[key]
        line.is_finished = True
        if not line.config.live:
            self._scheduler.finish(key)
            self._feed_tail(line)

    def _feed_tail(self, line: Line) -> None:
        """The next silence of an input that is over and has no clock of its own."""
        if line.is_finished and not line.config.live and not self._scheduler.waiting(line.key):
            self._scheduler.push(line.key, TailFrame(), self._clock(), silent=False)

    def _close(self, key: Key) -> None:
        if key in self._lines:
            self._end(key, "closed")
            return
        for waiting in [w for w in self._waiting if _key(w) == key]:
            self._waiting.remove(waiting)
            _refuse(waiting, SessionClosed("closed while it waited for a free row"))

    def _set_sampling(self, key: Key, sampling: SamplingConfig) -> None:
        line = self._line(key)
        # The seed stays: another one in mid-conversation would mean nothing.
        line.sampling = replace(sampling, seed=line.sampling.seed)
        self._step.set_sampling(self._slots.row_of(key), line.sampling)

    def _snapshot(self, key: Key) -> bytes:
        line, row = self._line(key), self._slots.row_of(key)
        snapshot = Snapshot(
            tensors=self._step.save_row(row),
            steps=self._step.steps_taken(row),
            sampling=line.sampling,
            line=line.save(),
        )
        return pack_snapshot(snapshot)

    # Steps

    def _take_step(self, batch: list[Ready[Key, LineFrame]]) -> None:
        started = self._clock()
        inputs = [self._lines[ready.key].row_input(self._slots.row_of(ready.key), ready) for ready in batch]
        try:
            outputs = self._step.run(inputs)
        except Exception as error:
            self._recover(error)
            return
        self._failures = 0
        now, wall_s = self._clock(), time.time()
        self._note_step(batch, now - started)
        for ready, output in zip(batch, outputs, strict=True):
            line = self._lines[ready.key]
            if not output.healthy:
                self._end(ready.key, "error", "the model's output is not a number any more")
                continue
            line.take(output, ready, now, wall_s, self._scheduler.backlog_s(ready.key))
            self._after(line, ready, wall_s)

    def _note_step(self, batch: list[Ready[Key, LineFrame]], seconds: float) -> None:
        rows = 1 + max(self._slots.row_of(ready.key) for ready in batch)
        self.times.note(rows, 1000 * seconds)
        self.metrics.step(seconds, len(batch))

    def _after(self, line: Line, ready: Ready[Key, LineFrame], wall_s: float) -> None:
        """What follows from a step for one conversation. Its row may have moved meanwhile."""
        if isinstance(ready.frame, PromptFrame):
            if not self._scheduler.has_urgent(line.key):
                self._keep_prompt(line, self._slots.row_of(line.key))
            return
        line.note_context(self._step.steps_taken(self._slots.row_of(line.key)), wall_s)
        if line.wants_refresh:
            opening = self._begin(self._slots.row_of(line.key), line)
            self._scheduler.push_urgent(line.key, opening, self._clock())
            line.refreshed(wall_s)
        self._feed_tail(line)
        if line.is_over:
            self._end(line.key, "finished")

    def _recover(self, error: Exception) -> None:
        """A step has failed: whatever the state is, it is no longer that of any conversation."""
        self._failures += 1
        self.metrics.restarted()
        _log.error("frame step failed", exc_info=error, extra={"live": len(self._lines)})
        for key in list(self._lines):
            self._end(key, "error", f"the frame step failed: {error}")
        try:
            self._step.rebuild()
        except Exception:
            _log.exception("the engine cannot be rebuilt")
            self._failures = _MOST_FAILURES
        if self._failures >= _MOST_FAILURES:
            self.metrics.set_healthy(False)

    # Ends

    def _end(self, key: Key, reason: EndReason, error: str | None = None) -> None:
        line = self._lines.pop(key)
        self._scheduler.remove(key)
        self._release_row(key)
        self.metrics.closed(line.metrics)
        if reason == "error":
            self.metrics.error()
        _log.info("ended", extra={"session": key, "reason": reason, "live": len(self._lines)})
        line.end(reason, time.time(), error)
        self._admit_waiting()

    def _release_row(self, key: Key) -> None:
        move = self._slots.release(key)
        if move is not None:
            self._step.move_row(move.source, move.target)

    def _admit_waiting(self) -> None:
        while self._waiting and self._refusal() is None:
            waiting = self._waiting.popleft()
            self._obey(waiting.request)

    def _watch_the_clock(self) -> None:
        now = self._clock()
        while self._waiting and self._waiting[0].until <= now:
            self.metrics.refused()
            full = self._refusal() or EngineFull("no row became free")
            _refuse(self._waiting.popleft(), full)
        if self._draining_until is not None and self._draining_until <= now:
            for key in list(self._lines):
                self._end(key, "drained")

    def _stop(self) -> None:
        self._stopped = True
        for key in list(self._lines):
            self._end(key, "closed")
        for waiting in self._waiting:
            _refuse(waiting, EngineUnhealthy("the engine is closed"))
        self._waiting.clear()

    def _refuse_the_rest(self) -> None:
        """Answers what came in while the engine stopped."""
        while not self._inbox.empty():
            reply = self._inbox.get().reply
            if reply is not None:
                reply.set_exception(EngineUnhealthy("the engine is closed"))


def _prompt_key(line: Line) -> str:
    assert line.config.prompt is not None
    return f"{line.config.prompt.digest}{line.config.greet}"


def _key(waiting: _Waiting) -> Key | None:
    command = waiting.request.command
    return command.key if isinstance(command, Open) else None


def _refuse(waiting: _Waiting, error: MoshiAgentError) -> None:
    if waiting.request.reply is not None:
        waiting.request.reply.set_exception(error)
