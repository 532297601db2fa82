"""The live conversations: each with its call, its row and its place in the schedule."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.call.call_state import CallFrame, CallState
from moshi_agent.engine.call.hearing_state import HearingState
from moshi_agent.engine.call.model import Model
from moshi_agent.engine.call.opening import OpeningFrame, PrefillFrame, PromptStep, RecallFrame
from moshi_agent.engine.call.tail import TailFrame
from moshi_agent.engine.commands import InputFrame, Key, Open
from moshi_agent.engine.inbox import Request
from moshi_agent.engine.metrics.metrics import Metrics
from moshi_agent.engine.rows import Rows
from moshi_agent.engine.schedule.scheduler import Ready, Scheduler
from moshi_agent.engine.snapshot import Snapshot
from moshi_agent.engine.step.frame_step import FrameStep, RowInput, RowOutput
from moshi_agent.engine.step.recogniser_step import RecogniserStep
from moshi_agent.errors import SessionClosed
from moshi_agent.events import EndReason
from moshi_agent.nn.device_errors import is_of_one

_log = logging.getLogger("moshi_agent.engine")

Batch = Sequence[Ready[Key, CallFrame]]


@dataclass(frozen=True, slots=True)
class _Given:
    """What a step has given one conversation."""

    ready: Ready[Key, CallFrame]
    output: RowOutput
    steps: int  # of the language model that were in the row's state then
    backlog_s: float  # input that waited behind the frame
    ended_at: float  # the step
    wall_s: float  # the same in Unix time


class Conversations:
    """What is to be done for conversations, by key. It has no clock: `now`, in seconds, is passed in."""

    def __init__(
        self,
        step: FrameStep,
        model: Model,
        advised: SamplingConfig,
        gather_s: float,
        metrics: Metrics,
        recogniser: RecogniserStep | None = None,
    ) -> None:
        self._model, self._advised, self._metrics = model, advised, metrics
        self._calls: dict[Key, CallState] = {}
        self._undelivered: dict[Key, _Given] = {}
        self._rows = Rows(step, recogniser, model.most_positions)
        self._scheduler = Scheduler[Key, CallFrame](gather_s)

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._calls)

    def __contains__(self, key: object) -> bool:
        return key in self._calls

    def __getitem__(self, key: Key) -> CallState:
        """Returns a conversation that has all that the steps have given it.

        Raises:
            SessionClosed: it is not there.
        """
        given = self._undelivered.pop(key, None)
        if given is not None:
            self._hand_out(key, given, given.ended_at, given.wall_s)
        if key not in self._calls:
            raise SessionClosed("the conversation is over")
        return self._calls[key]

    # Commands

    def begin(self, request: Request, command: Open, now: float) -> None:
        """Begins a conversation, in the next row.

        Raises:
            InputError: its prompt or snapshot is of another model.
        """
        assert request.outlet is not None
        config, snapshot = command.config, request.snapshot
        if snapshot is None:
            sampling = config.sampling_or(self._advised, drawn_seed=hash((now, command.key)))
        else:
            sampling = config.sampling_or(snapshot.sampling, drawn_seed=snapshot.sampling.seed)
        kind = HearingState if self._model.hears_only else CallState
        call = kind(command.key, config, sampling, self._model, request.outlet)
        opening = self._rows.enter(call, snapshot)
        self._calls[call.key] = call
        self._scheduler.add(call.key, now, call.pace, opening)
        try:
            for frame in () if snapshot is None else snapshot.inputs:
                self.hear(replace(frame, key=call.key, complete_at=now, chunk=0), now)
        except BaseException:
            del self._calls[call.key]
            self._scheduler.remove(call.key)
            self._rows.leave(call.key)
            raise
        self._metrics.opened(call.metrics)
        _log.info(
            "session %d opened, %d live", call.key, len(self), extra={"session": call.key, "live": len(self)}
        )

    def hear(self, frame: InputFrame, now: float) -> None:
        """Takes input; ignores it where the conversation is over."""
        if frame.key in self:
            self._scheduler.push(frame.key, frame, now, frame.silent, frame.chunk)

    def finish(self, key: Key, now: float) -> None:
        """Takes no more input."""
        if key not in self:
            return
        call = self[key]
        call.is_finished = True
        if not call.config.live:
            self._scheduler.finish(key)
            self._feed_tail(call, now)

    def _feed_tail(self, call: CallState, now: float) -> None:
        """The next silence of an input that is over and has no clock of its own."""
        if call.is_finished and not call.config.live and not self._scheduler.waiting(call.key):
            self._scheduler.push(call.key, TailFrame(), now, silent=False)

    def set_sampling(self, key: Key, sampling: SamplingConfig) -> None:
        """Changes the sampling. The seed stays: another one in mid-conversation would mean nothing."""
        call = self[key]
        call.sampling = replace(sampling, seed=call.sampling.seed)
        self._rows.set_sampling(call)

    def snapshot(self, key: Key, compact: bool) -> Snapshot:
        """Returns a conversation as it is, with the frames that wait; `compact` as in `Session.snapshot`."""
        call, waiting = self[key], self._scheduler.save(key)
        inputs = tuple(frame for frame in waiting["input"] if isinstance(frame, InputFrame))
        return replace(self._rows.save(call, waiting["urgent"], compact), inputs=inputs)

    # Steps

    def batch(self, now: float) -> Batch:
        """Tells who takes part in a step now."""
        return self._scheduler.batch(now)

    def gather(self, seconds: float) -> None:
        """Tells how long a step waits for those whose frames are about to come."""
        self._scheduler.gather_s = seconds

    def wake_at(self, now: float) -> float | None:
        """Tells when somebody will take part in one though no command comes; None for never."""
        return self._scheduler.wake_at(now)

    def prefill(self, batch: Batch, now: float) -> Batch:
        """Takes steps of a prompt in which everything is forced, or of a conversation from elsewhere.

        So many of one conversation as are taken at once.

        Returns who is left for a step. The prompts of others who join wait until after it: nobody's frame is
        late for all of them together. Raises what the device raises, unless it is one conversation's own.
        """
        rest: list[Ready[Key, CallFrame]] = []
        is_taken = False
        for ready in batch:
            frame = ready.frame
            if isinstance(frame, PromptStep) and self._shares_prompt(ready, frame, now):
                continue
            if not isinstance(frame, PrefillFrame | RecallFrame):
                rest.append(ready)
            elif is_taken:
                self._scheduler.put_back(ready.key, frame, now)
            else:
                is_taken = True
                self._prefill(ready, frame, now)
        return rest

    def _prefill(self, ready: Ready[Key, CallFrame], frame: PrefillFrame | RecallFrame, now: float) -> None:
        call = self._calls[ready.key]
        try:
            self._rows.prefill(call, frame)
        except Exception as error:
            if not is_of_one(error):
                raise
            self._end_by_fault(call.key, f"the conversation failed: {error}", error)
            return
        self._go_on(call, ready, now)

    def _shares_prompt(self, ready: Ready[Key, CallFrame], frame: PromptStep, now: float) -> bool:
        """Whether this prompt is another one's too, which computes it now or has done so."""
        call = self._calls[ready.key]
        if self._rows.waits_for_prompt(call.key):
            self._scheduler.put_back(call.key, frame, now)
            return True
        if not self._rows.take_kept(call):
            return False
        self._scheduler.drop_urgent(call.key)
        self._go_on(call, ready, now)
        return True

    def _go_on(self, call: CallState, ready: Ready[Key, CallFrame], now: float) -> None:
        """What follows from a step that gave nothing to hear."""
        try:
            is_over = self._follow(call, ready, self._rows.steps_taken(call.key), now, time.time())
        except Exception as error:
            self._end_by_fault(call.key, f"the conversation failed: {error}", error)
            return
        if is_over:
            self.end(call.key, "finished")

    def row_inputs(self, batch: Batch) -> tuple[Batch, list[RowInput]]:
        """Returns what they bring."""
        brought: list[tuple[Ready[Key, CallFrame], RowInput]] = []
        for ready in batch:
            try:
                brought.append((ready, self._calls[ready.key].row_input(self._rows.of(ready.key), ready)))
            except Exception as error:
                self._end_by_fault(ready.key, f"the conversation failed: {error}", error)
        # Where somebody has ended, others have moved.
        inputs = [replace(given, row=self._rows.of(ready.key)) for ready, given in brought]
        return [ready for ready, _ in brought], inputs

    def take(self, batch: Batch, outputs: Sequence[RowOutput], now: float, all_at_once: bool) -> None:
        """Takes what a step has given, and hands out what bears on the next one.

        The rest waits for `deliver`, so that the device need not wait for it; but for a command to its
        conversation, and for its end. Raises what the device raises when a row moves.

        Args:
            all_at_once: nothing waits.
        """
        wall_s = time.time()
        for ready, output in zip(batch, outputs, strict=True):
            key = ready.key
            if key not in self._calls:  # it has ended while the device was at it
                continue
            steps = self._rows.steps_taken(key)
            given = _Given(ready, output, steps, self._scheduler.backlog_s(key), now, wall_s)
            if all_at_once or self._calls[key].decides_next(output, ready, steps):
                self._hand_out(key, given, now, wall_s)
            else:
                self._undelivered[key] = given

    def deliver(self, now: float) -> None:
        """Hands out what is left of what steps have given. Raises what the device raises when a row moves."""
        wall_s = time.time()
        while self._undelivered:
            key = next(iter(self._undelivered))
            self._hand_out(key, self._undelivered.pop(key), now, wall_s)

    def _hand_out(self, key: Key, given: _Given, now: float, wall_s: float) -> None:
        if not given.output.healthy:
            self._end_by_fault(key, "the model's output is not a number any more")
            return
        call = self._calls[key]
        try:
            call.deliver(given.output, given.ready, now, wall_s, given.backlog_s)
            is_over = self._follow(call, given.ready, given.steps, now, wall_s)
        except Exception as error:
            self._end_by_fault(key, f"the conversation failed: {error}", error)
            return
        if is_over:
            self.end(key, "finished")

    def heard(self, batch: Batch) -> dict[Key, RowInput]:
        """Returns what the recogniser is to hear of a step, by those who are still there."""
        inputs: dict[Key, RowInput] = {}
        for ready in batch:
            pcm = self._calls[ready.key].heard(ready) if ready.key in self._calls else None
            if pcm is not None:
                inputs[ready.key] = RowInput(row=self._rows.of(ready.key), pcm=pcm)
        return inputs

    def take_heard(self, outputs: Mapping[Key, RowOutput]) -> None:
        """Hands out what the recogniser has made of it. Raises what the device raises when a row moves."""
        wall_s = time.time()
        for key, output in outputs.items():
            if key not in self._calls:  # it has ended while the device was at it
                continue
            if not output.healthy:
                self._rows.hear_anew(key)
            try:
                self._calls[key].take_heard(output, wall_s)
            except Exception as error:
                self._end_by_fault(key, f"the conversation failed: {error}", error)

    def _follow(
        self, call: CallState, ready: Ready[Key, CallFrame], steps: int, now: float, wall_s: float
    ) -> bool:
        """What follows from a step for one conversation. Returns whether it is over."""
        if isinstance(ready.frame, OpeningFrame):
            if not self._scheduler.has_urgent(call.key):
                self._rows.opened(call)
        else:
            call.note_context(steps, wall_s)
            if call.wants_refresh:
                self._scheduler.push_urgent(call.key, self._rows.begin(call), now)
                call.refreshed(wall_s)
        if call.is_over and not self._scheduler.waiting(call.key):
            return True
        self._feed_tail(call, now)
        return False

    # Ends

    def end(self, key: Key, reason: EndReason, error: str | None = None) -> None:
        """Ends a conversation and frees its row. Raises what the device raises when a row moves."""
        self._dismiss(key, reason, error)
        self._rows.leave(key)

    def _end_by_fault(self, key: Key, what: str, error: Exception | None = None) -> None:
        """One conversation cannot go on; the others do."""
        _log.error("session %d: %s", key, what, exc_info=error, extra={"session": key})
        self.end(key, "error", what)

    def fail(self, error: str) -> None:
        """Nobody's row is to be trusted any more: ends all and begins anew. Raises what the device raises."""
        for key in list(self._calls):
            self._dismiss(key, "error", error)
        self._rows.rebuild()

    def try_step(self) -> None:
        """Takes a step with nobody in it, and begins anew. Raises what the device raises."""
        assert not self._calls
        self._rows.try_step()

    def _give_last(self, key: Key) -> None:
        """Whoever ends has had all that the steps gave before."""
        given = self._undelivered.pop(key, None)
        if given is None:
            return
        try:
            self._calls[key].deliver(given.output, given.ready, given.ended_at, given.wall_s, given.backlog_s)
        except Exception as error:
            _log.error("session %d: its last frame is lost: %s", key, error, exc_info=error)

    def _dismiss(self, key: Key, reason: EndReason, error: str | None) -> None:
        """It is over for all but its row."""
        self._give_last(key)
        call = self._calls.pop(key)
        self._scheduler.remove(key)
        self._metrics.closed(call.metrics)
        if reason == "error":
            self._metrics.error()
        seconds = call.frame * FRAME_S
        _log.info(
            "session %d ended after %.1f s: %s, %d live",
            *(key, seconds, reason if error is None else f"{reason}, {error}", len(self)),
            extra={"session": key, "seconds": seconds, "reason": reason, "error": error, "live": len(self)},
        )
        call.end(reason, time.time(), error)
