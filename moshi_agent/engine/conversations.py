"""The live conversations: each with its line, its row and its place in the schedule."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from moshi_agent.config import SamplingConfig
from moshi_agent.engine.commands import InputFrame, Key, Open
from moshi_agent.engine.inbox import Request
from moshi_agent.engine.line.line import Line, LineFrame, Model
from moshi_agent.engine.line.opening import PrefillFrame, PromptFrame
from moshi_agent.engine.line.tail import TailFrame
from moshi_agent.engine.metrics.metrics import Metrics
from moshi_agent.engine.rows import Rows
from moshi_agent.engine.schedule.scheduler import Ready, Scheduler
from moshi_agent.engine.snapshot import Snapshot
from moshi_agent.engine.step.frame_step import FrameStep, RowInput, RowOutput
from moshi_agent.engine.step.listening import Listener
from moshi_agent.errors import SessionClosed
from moshi_agent.events import EndReason

_log = logging.getLogger("moshi_agent.engine")

Batch = Sequence[Ready[Key, LineFrame]]


class Conversations:
    """What is to be done for conversations, by key. It has no clock: `now`, in seconds, is passed in."""

    def __init__(
        self,
        step: FrameStep,
        model: Model,
        advised: SamplingConfig,
        gather_s: float,
        metrics: Metrics,
        listener: Listener | None = None,
    ) -> None:
        self._model, self._advised, self._metrics = model, advised, metrics
        self._lines: dict[Key, Line] = {}
        self._rows = Rows(step, listener)
        self._scheduler = Scheduler[Key, LineFrame](gather_s)

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._lines)

    def __contains__(self, key: object) -> bool:
        return key in self._lines

    def __getitem__(self, key: Key) -> Line:
        """Raises SessionClosed for a conversation that is not there."""
        if key not in self._lines:
            raise SessionClosed("the conversation is over")
        return self._lines[key]

    # Commands

    def begin(self, request: Request, command: Open, now: float) -> None:
        """A conversation begins, in the next row.

        Raises:
            InputError: its prompt or snapshot is of another model.
        """
        assert request.outlet is not None
        config, snapshot = command.config, request.snapshot
        if snapshot is None:
            sampling = config.sampling_or(self._advised, drawn_seed=hash((now, command.key)))
        else:
            sampling = config.sampling_or(snapshot.sampling, drawn_seed=snapshot.sampling.seed)
        line = Line(command.key, config, sampling, self._model, request.outlet)
        opening = self._rows.enter(line, snapshot)
        self._lines[line.key] = line
        self._scheduler.add(line.key, now, line.pace, opening)
        for frame in () if snapshot is None else snapshot.inputs:
            self.hear(replace(frame, key=line.key, complete_at=now, chunk=0), now)
        self._metrics.opened(line.metrics)
        _log.info("opened", extra={"session": line.key, "live": len(self)})

    def hear(self, frame: InputFrame, now: float) -> None:
        """Input; ignored where the conversation is over."""
        if frame.key in self:
            self._scheduler.push(frame.key, frame, now, frame.silent, frame.chunk)

    def finish(self, key: Key, now: float) -> None:
        """No more input."""
        if key not in self:
            return
        line = self[key]
        line.is_finished = True
        if not line.config.live:
            self._scheduler.finish(key)
            self._feed_tail(line, now)

    def _feed_tail(self, line: Line, now: float) -> None:
        """The next silence of an input that is over and has no clock of its own."""
        if line.is_finished and not line.config.live and not self._scheduler.waiting(line.key):
            self._scheduler.push(line.key, TailFrame(), now, silent=False)

    def set_sampling(self, key: Key, sampling: SamplingConfig) -> None:
        """Samples otherwise. The seed stays: another one in mid-conversation would mean nothing."""
        line = self[key]
        line.sampling = replace(sampling, seed=line.sampling.seed)
        self._rows.set_sampling(line)

    def snapshot(self, key: Key) -> Snapshot:
        """A conversation as it is, with the frames that wait."""
        line, waiting = self[key], self._scheduler.save(key)
        inputs = tuple(frame for frame in waiting["input"] if isinstance(frame, InputFrame))
        return replace(self._rows.save(line, waiting["urgent"]), inputs=inputs)

    # Steps

    def batch(self, now: float) -> Batch:
        """Who takes part in a step now."""
        return self._scheduler.batch(now)

    def gather(self, seconds: float) -> None:
        """How long a step waits for those whose frames are about to come."""
        self._scheduler.gather_s = seconds

    def wake_at(self, now: float) -> float | None:
        """When somebody will take part in one though no command comes; None for never."""
        return self._scheduler.wake_at(now)

    def prefill(self, batch: Batch, now: float) -> Batch:
        """Takes the steps of prompts in which everything is forced. Returns who is left for a step.

        Raises what the device raises.
        """
        rest: list[Ready[Key, LineFrame]] = []
        for ready in batch:
            if not isinstance(ready.frame, PrefillFrame):
                rest.append(ready)
                continue
            line = self._lines[ready.key]
            self._rows.prefill(line, ready.frame)
            if self._follow(line, ready, now, time.time()):
                self.end(line.key, "finished")
        return rest

    def row_inputs(self, batch: Batch) -> list[RowInput]:
        """What they bring."""
        return [self._lines[ready.key].row_input(self._rows.of(ready.key), ready) for ready in batch]

    def take(self, batch: Batch, outputs: Sequence[RowOutput], now: float) -> None:
        """What the step has given them. Raises what the device raises when a row moves."""
        wall_s = time.time()
        for ready, output in zip(batch, outputs, strict=True):
            line = self._lines[ready.key]
            if not output.healthy:
                self.end(line.key, "error", "the model's output is not a number any more")
                continue
            try:
                line.take(output, ready, now, wall_s, self._scheduler.backlog_s(line.key))
                is_over = self._follow(line, ready, now, wall_s)
            except Exception as error:
                _log.exception("a conversation failed", extra={"session": line.key})
                self.end(line.key, "error", f"the conversation failed: {error}")
                continue
            if is_over:
                self.end(line.key, "finished")

    def heard(self, batch: Batch) -> dict[Key, RowInput]:
        """What the recogniser is to hear of the step just taken, by those who are still there."""
        inputs: dict[Key, RowInput] = {}
        for ready in batch:
            pcm = self._lines[ready.key].heard(ready) if ready.key in self._lines else None
            if pcm is not None:
                inputs[ready.key] = RowInput(row=self._rows.of(ready.key), pcm=pcm)
        return inputs

    def take_heard(self, outputs: Mapping[Key, RowOutput]) -> None:
        """What the recogniser has made of it. Raises what the device raises when a row moves."""
        wall_s = time.time()
        for key, output in outputs.items():
            try:
                self._lines[key].take_heard(output, wall_s)
            except Exception as error:
                _log.exception("a conversation failed", extra={"session": key})
                self.end(key, "error", f"the conversation failed: {error}")

    def _follow(self, line: Line, ready: Ready[Key, LineFrame], now: float, wall_s: float) -> bool:
        """What follows from a step for one conversation. Returns whether it is over."""
        if isinstance(ready.frame, PromptFrame | PrefillFrame):
            if not self._scheduler.has_urgent(line.key):
                self._rows.opened(line)
        else:
            line.note_context(self._rows.steps_taken(line.key), wall_s)
            if line.wants_refresh:
                self._scheduler.push_urgent(line.key, self._rows.begin(line), now)
                line.refreshed(wall_s)
        if line.is_over and not self._scheduler.waiting(line.key):
            return True
        self._feed_tail(line, now)
        return False

    # Ends

    def end(self, key: Key, reason: EndReason, error: str | None = None) -> None:
        """A conversation is over; its row is free. Raises what the device raises when a row moves."""
        self._dismiss(key, reason, error)
        self._rows.leave(key)

    def fail(self, error: str) -> None:
        """Nobody's row is to be trusted any more: ends all and begins anew. Raises what the device raises."""
        for key in list(self._lines):
            self._dismiss(key, "error", error)
        self._rows.rebuild()

    def _dismiss(self, key: Key, reason: EndReason, error: str | None) -> None:
        """It is over for all but its row."""
        line = self._lines.pop(key)
        self._scheduler.remove(key)
        self._metrics.closed(line.metrics)
        if reason == "error":
            self._metrics.error()
        _log.info("ended", extra={"session": key, "reason": reason, "live": len(self)})
        line.end(reason, time.time(), error)
