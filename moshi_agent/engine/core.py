"""The thread that owns the device: commands in, frame steps, events out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from moshi_agent.config import SamplingConfig
from moshi_agent.engine.admission import Admission
from moshi_agent.engine.call.model import Model
from moshi_agent.engine.capacity import StepTimes
from moshi_agent.engine.commands import (
    Ask,
    Close,
    Drain,
    Finish,
    GiveReference,
    HeardUtterance,
    Hold,
    InputFrame,
    Key,
    NoteDropped,
    Open,
    Ping,
    Refer,
    RestartPercentiles,
    Say,
    SetSampling,
    Stop,
    TakeMetrics,
    TakeSnapshot,
)
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.conversations import Batch, Conversations
from moshi_agent.engine.inbox import CLOSED, Inbox, Request
from moshi_agent.engine.metrics.metrics import Metrics
from moshi_agent.engine.snapshot import Snapshot, pack_snapshot
from moshi_agent.engine.step.frame_step import FrameStep
from moshi_agent.engine.step.host_copies import HostCopies
from moshi_agent.engine.step.recogniser_step import RecogniserStep
from moshi_agent.errors import DeviceFull, EngineUnhealthy, MoshiAgentError
from moshi_agent.events import EndReason
from moshi_agent.nn.device_errors import is_final, is_out_of_memory
from moshi_agent.plural import counted

_log = logging.getLogger("moshi_agent.engine")
_MOST_FAILURES = 3  # steps that fail one after the other before the engine gives up
_PROBES_S = (1.0, 30.0)  # from one try to serve again to the next, at first and at most
# Between two steps: whoever sends a whole file, or much that takes long to look at, holds nobody up.
_MOST_COMMANDS = 256
_MOST_COMMANDS_S = 0.010
_LATER = object()  # in place of an answer that will be given later


class Core:
    """Runs conversations on a device, as commanded by the inbox. It belongs to one thread."""

    def __init__(
        self,
        inbox: Inbox,
        step: FrameStep,
        model: Model,
        advised: SamplingConfig,
        config: EngineConfig,
        times: StepTimes,
        clock: Callable[[], float] = time.monotonic,
        recogniser: RecogniserStep | None = None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.times = times
        self._step = step
        self._recogniser = recogniser
        self._clock = clock
        self._inbox = inbox
        self._admission = Admission(config, times, self.metrics)
        self._conversations = Conversations(
            step, model, advised, config.batch_wait_ms / 1000, self.metrics, recogniser
        )
        self._batch_wait_ms = config.batch_wait_ms
        self._failures = 0
        self._failed = failed
        self._final: str | None = None  # why the device will serve this process no more
        self._probe_s = _PROBES_S[0]
        self._probe_at: float | None = None  # while it serves nobody
        self._is_stopped = False

    @property
    def free(self) -> int:
        """Conversations that would be taken now. Any thread may ask."""
        can_serve = not (self._is_stopped or self._has_failed)
        return self._admission.free(len(self._conversations)) if can_serve else 0

    @property
    def refusal(self) -> MoshiAgentError | None:
        """Why none would be, if so. Any thread may ask."""
        if self._is_stopped:
            return EngineUnhealthy(CLOSED)
        if self._final is not None:
            return EngineUnhealthy(self._final)
        if self._has_failed:
            return EngineUnhealthy(
                f"the last {self._failures} frame steps failed; the engine takes nobody until one succeeds, "
                "and tries by itself"
            )
        return self._admission.refusal(len(self._conversations))

    @property
    def _has_failed(self) -> bool:
        return self._failures >= _MOST_FAILURES

    def run(self) -> None:
        """Serves until `Stop`."""
        while not self._is_stopped:
            if not self.run_once() and not self._is_stopped:
                self._wait()
        self._inbox.close()

    def run_once(self) -> bool:
        """Obeys what has been commanded and takes a step, if anybody has a frame. Returns whether it did."""
        try:
            self._obey_all()
            batch = self._conversations.batch(self._clock())
            if batch:
                self._take_step(batch)
            else:
                self._conversations.deliver(self._clock())
            self._watch_the_clock()
        except Exception as error:
            self._recover(error)
            return True
        return bool(batch)

    def _obey_all(self) -> None:
        until = self._clock() + _MOST_COMMANDS_S
        for _ in range(_MOST_COMMANDS):
            request = None if self._is_stopped else self._inbox.get(0)
            if request is None:
                return
            self._obey(request)
            if self._clock() >= until:
                return

    def _wait(self) -> None:
        """Until the next command, or until silence or somebody's patience is due."""
        now = self._clock()
        wakes = (self._conversations.wake_at(now), self._admission.wake_at, self._probe_at)
        times = [at for at in wakes if at is not None]
        request = self._inbox.get(max(0.0, min(times) - now) if times else None)
        if request is not None:
            self._obey(request)

    # Commands

    def _obey(self, request: Request) -> None:
        try:
            answer = self._answer(request)
        except Exception as error:
            self._refuse(request, error)
            return
        if answer is not _LATER:
            request.answer(answer)

    def _refuse(self, request: Request, error: Exception) -> None:
        command = type(request.command).__name__
        if is_out_of_memory(error):
            error = DeviceFull("the device has no memory left for this; accepted: to try again later")
        if not isinstance(error, MoshiAgentError):
            _log.error(
                "the command %s failed: %s", command, error, exc_info=error, extra={"command": command}
            )
        request.refuse(error)
        if is_final(error):
            self._recover(error)

    def _answer(self, request: Request) -> object:
        command, conversations = request.command, self._conversations
        match command:
            case InputFrame():
                conversations.hear(command, self._clock())
            case Open():
                return self._open(request, command)
            case Close():
                self._close(command.key)
            case Finish():
                conversations.finish(command.key, self._clock())
            case Say():
                conversations[command.key].say(command)
            case Hold():
                conversations[command.key].hold(command.seconds)
            case Ask():
                return conversations[command.key].ask(command.by, time.time())
            case Refer():
                raise AssertionError("the text of a reference is read before it comes here")
            case GiveReference():
                return conversations[command.key].refer(command, time.time())
            case HeardUtterance():
                if command.key in conversations:
                    conversations[command.key].hear_utterance(command.words, time.time())
            case SetSampling():
                conversations.set_sampling(command.key, command.sampling)
            case TakeSnapshot():
                _pack_aside(
                    request, conversations.snapshot(command.key, command.compact), self._step.host_copies
                )
                if command.end:
                    self._end([command.key], "moved")
                return _LATER
            case TakeMetrics():
                return conversations[command.key].metrics.snapshot()
            case NoteDropped():
                if command.key in conversations:
                    conversations[command.key].metrics.dropped(command.samples, silent=False)
            case RestartPercentiles():
                self.metrics.restart_percentiles()
            case Ping():
                pass
            case Drain():
                self._admission.drain(len(conversations), self._clock() + command.seconds)
            case Stop():
                self._stop()
        return None

    def _open(self, request: Request, command: Open) -> object:
        refusal = self.refusal
        if refusal is not None:
            self._admission.hold(request, refusal, self._clock())
            return _LATER
        self._conversations.begin(request, command, self._clock())
        return None

    def _close(self, key: Key) -> None:
        self._admission.withdraw(key)
        if key in self._conversations:
            self._end([key], "closed")

    def _stop(self) -> None:
        self._is_stopped = True
        self._admission.refuse_all(EngineUnhealthy(CLOSED))
        self._end(list(self._conversations), "closed")

    def _end(self, keys: Iterable[Key], reason: EndReason) -> None:
        try:
            for key in keys:
                self._conversations.end(key, reason)
        except Exception as error:
            self._recover(error)

    # Steps

    def _take_step(self, batch: Batch) -> None:
        """Launches a step, and delivers the one before while the device is busy.

        Where the device is the processor that delivers, or a recogniser is to hear of the step, nothing is
        left of it for the next one.
        """
        live, runs_aside = self._conversations, self._step.runs_aside
        batch = live.prefill(batch, self._clock())
        started = self._clock()
        batch, inputs = live.row_inputs(batch)
        launched = self._step.launch(inputs) if inputs else None
        live.deliver(self._clock())
        if launched is None:
            return
        outputs = launched()
        self._failures = 0
        now = self._clock()
        self.metrics.step(now - started, len(batch))
        listening = self._listen(batch) if runs_aside else None
        live.take(batch, outputs, now, all_at_once=not runs_aside or self._recogniser is not None)
        listening = listening or self._listen(batch)
        step_ms = 1000 * (now - started + listening())
        self.times.note(1 + max(given.row for given in inputs), step_ms)
        # Waiting and step together stay within the budget.
        live.gather(max(0.0, min(self._batch_wait_ms, self.times.budget_ms - step_ms)) / 1000)

    def _listen(self, batch: Batch) -> Callable[[], float]:
        """The recogniser begins to hear what the model has heard.

        Returns:
            What waits for it, hands out what it has made of it, and returns the seconds that it took.
        """
        inputs = self._conversations.heard(batch) if self._recogniser is not None else {}
        if self._recogniser is None or not inputs:
            return lambda: 0.0
        started = self._clock()
        launched = self._recogniser.launch([*inputs.values()])

        def finish() -> float:
            outputs = launched()
            seconds = self._clock() - started
            self.metrics.listened(seconds)
            self._conversations.take_heard(dict(zip(inputs, outputs, strict=True)))
            return seconds

        return finish

    def _watch_the_clock(self) -> None:
        """Rows that have become free are taken by who waits; what has taken too long ends."""
        live = self._conversations
        while (request := self._admission.next(len(live))) is not None:
            self._obey(request)
        now = self._clock()
        if self._probe_at is not None and now >= self._probe_at:
            self._probe(now)
        self._admission.refuse_late(len(live), now)
        if self._admission.is_drained(now):
            self._end(list(live), "drained")

    def _recover(self, error: Exception) -> None:
        """The device has failed: whatever its state is, it is no longer that of any conversation."""
        self._failures += 1
        if is_final(error):
            self._failures = _MOST_FAILURES
            self._final = (
                f"the device has failed for this process ({_first_line(error)}); accepted: to start it "
                "again, or process=True, with which the engine starts again by itself"
            )
        self.metrics.restarted()
        live = len(self._conversations)
        _log.error(
            "the frame step failed, %d of %d in a row: %s; %s lost",
            *(self._failures, _MOST_FAILURES, error, counted(live, "conversation")),
            exc_info=error,
            extra={"failures": self._failures, "live": live},
        )
        try:
            self._conversations.fail(f"the frame step failed: {_first_line(error)}")
        except Exception as fault:
            _log.exception("the engine cannot be rebuilt: %s", fault)
            self._failures = _MOST_FAILURES
        if self._has_failed:
            self._give_up()

    def _give_up(self) -> None:
        """Takes nobody until a probe succeeds."""
        self.metrics.set_healthy(False)
        self._probe_s = _PROBES_S[0]
        self._probe_at = None if self._final is not None else self._clock() + self._probe_s
        self._admission.refuse_all(EngineUnhealthy("the engine has failed, and takes nobody for now"))
        if self._failed is not None:
            self._failed()

    def _probe(self, now: float) -> None:
        """Tries a step without anybody: what ailed the device, or the program around it, may be over."""
        try:
            self._conversations.try_step()
        except Exception as error:
            self._probe_s = min(2 * self._probe_s, _PROBES_S[1])
            self._probe_at = now + self._probe_s
            _log.warning(
                "the engine still fails: %s; it tries again in %g s",
                *(error, self._probe_s),
                extra={"seconds": self._probe_s},
            )
            return
        self._failures, self._probe_at = 0, None
        self.metrics.set_healthy(True)
        _log.info("the engine serves again")


def _first_line(error: Exception) -> str:
    """Without the advice for programmers that PyTorch adds to an error of CUDA."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _pack_aside(request: Request, snapshot: Snapshot, copies: HostCopies) -> None:
    """Answers with the bytes, in a thread of its own: they may be many, and nobody's frames are to wait."""

    def pack() -> None:
        try:
            request.answer(pack_snapshot(snapshot.moved(copies.take)))
        except Exception as error:
            request.refuse(error)

    threading.Thread(target=pack, name="moshi-snapshot", daemon=True).start()
