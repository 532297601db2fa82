"""One conversation as its user holds it: audio in, events out, by iteration or by callbacks."""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.asking import AskConfig, Referral
from moshi_agent.engine.callbacks import Callbacks
from moshi_agent.engine.commands import (
    Ask,
    Close,
    Command,
    Finish,
    Hold,
    InputFrame,
    Key,
    NoteDropped,
    Open,
    Say,
    SetSampling,
    TakeMetrics,
    TakeSnapshot,
)
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.event_queue import EventQueue, Outlet
from moshi_agent.engine.intake import Intake
from moshi_agent.engine.metrics.metrics import SessionReport
from moshi_agent.engine.microphone import Microphone, Pcm, to_float32
from moshi_agent.engine.reference_desk import OnReference, ReferenceDesk, refer_command
from moshi_agent.engine.tap import SessionTap, tapped
from moshi_agent.errors import BacklogFull, InputError, SessionClosed
from moshi_agent.events import Event
from moshi_agent.text.transcript import Transcript

_LONGEST_BACKLOG_S = 10.0  # of a live conversation, waiting for the engine
_LOST_ENGINE_S = 60.0  # likewise, where the engine leaves out what is late: it does not even do that
_PATIENT_BACKLOG_S = 1.0  # above it, who can wait does
_LONGEST_FILE_S = 3600.0  # of any other, in and out together
_NOT_OPEN = "the session is not open yet: use `async with` or `open`"


class Backend(Protocol):
    """Runs the engine, in this process or in one of its own."""

    def send(self, command: Command) -> None:
        """Hands over a command that needs no answer."""
        ...

    def request(self, command: Command, outlet: Outlet | None = None) -> Future[Any]:
        """Hands over a command and returns its answer to come."""
        ...


class Session:
    """Holds one conversation: takes audio, gives events. `Engine.session` and `open_session` make it.

    Its methods may be called from any thread. Events are read once: by `async for`, by `for`, or by the
    callbacks. A session that nobody refers to any more is closed.
    """

    def __init__(
        self,
        key: Key,
        config: SessionConfig,
        backend: Backend,
        snapshot: bytes | None = None,
        callbacks: Callbacks | None = None,
        on_reference: OnReference | None = None,
        tap: SessionTap | None = None,
    ) -> None:
        self.key = key
        self.config = config
        self._backend = backend
        self._snapshot = snapshot
        self._callbacks = callbacks or Callbacks()
        self._tap = tap
        longest_s = config.queue_s if config.live else math.inf
        self._events = EventQueue(longest_s, partial(_note_dropped, backend, key))
        self.transcript = Transcript()  # what both sides have said up to now, in turns
        self._asking = config.asking or AskConfig()
        self._says_references = config.references == "say"
        self._desk: ReferenceDesk | None = None
        if on_reference is not None or self._asking.when is not None:
            transcript, request = self.transcript, backend.request
            self._desk = ReferenceDesk(
                key, self._asking, self._says_references, on_reference, transcript, request
            )
        self._intake = Intake(self._events, self.transcript, self._desk)
        self._microphone = Microphone(key, live=config.live)
        self._lock = threading.Lock()  # held while audio goes in
        self._inputs_sent = 0
        self._input_has_ended = False
        self._finalizer: weakref.finalize[..., Session] | None = None
        self._pump: threading.Thread | None = None

    # Beginning and end

    def open(self) -> Self:
        """Takes a row of the engine, waiting for one as the engine is set up to.

        Raises:
            EngineFull: there is none, or no time for one more conversation.
            EngineUnhealthy: the engine is closed or broken.
            InputError: a snapshot or a prompt of another model.
        """
        reply = self._request_open(None)
        try:
            reply.result()
        except BaseException:
            self._give_up()
            raise
        self._opened()
        return self

    async def open_async(self) -> Self:
        """Takes a row as `open` does, without blocking the event loop."""
        reply = self._request_open(asyncio.get_running_loop())
        try:
            await asyncio.wrap_future(reply)
        except BaseException:
            self._give_up()
            raise
        self._opened()
        return self

    def _request_open(self, loop: asyncio.AbstractEventLoop | None) -> Future[Any]:
        if self._finalizer is not None:
            raise SessionClosed("this session has been opened before; make another one")
        if self._desk is not None:
            self._desk.start(loop)
        # A function stays here: the engine may be in another process.
        asking = self.config.asking
        if asking is not None:
            decides = asking.when is not None and asking.hold is not False
            awaits = decides if asking.awaits_words is None else asking.awaits_words
            asking = replace(asking, when=None, awaits_words=awaits)
        config = replace(self.config, asking=asking)
        outlet = self._intake.put if self._tap is None else tapped(self._intake.put, self._tap)
        return self._backend.request(Open(self.key, config, self._snapshot), outlet)

    def _give_up(self) -> None:
        self._backend.send(Close(self.key))
        if self._desk is not None:
            self._desk.stop()

    def _opened(self) -> None:
        self._snapshot = None
        self._finalizer = weakref.finalize(self, self._backend.send, Close(self.key))
        if self._callbacks:
            self._pump = self._callbacks.start(self._events, self.key)

    def close(self) -> None:
        """Ends the conversation now and frees its row. May be called again."""
        if self._finalizer is not None:
            self._finalizer()

    async def aclose(self) -> None:
        """Ends the conversation as `close` does; for `async` code."""
        self.close()

    def finish(self) -> Awaitable[None]:
        """Ends the input: what was pushed is heard out, then a tail of silence, then the stream ends.

        Takes effect at once; awaiting the result waits for the end. `wait` does the same in a thread.
        """
        with self._lock:
            if self._finalizer is None:
                raise SessionClosed(_NOT_OPEN)
            if not self._input_has_ended:
                self._send_frames(self._microphone.flush())
                self._backend.send(Finish(self.key))
            self._input_has_ended = True
        return self._events.ended()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until the conversation has ended and its callbacks are done; False after the timeout."""
        ended = self._events.wait_for_end(timeout_s)
        if ended and self._pump is not None and self._pump is not threading.current_thread():
            self._pump.join(timeout_s)
            return not self._pump.is_alive()
        return ended

    @property
    def is_open(self) -> bool:
        """Whether the conversation goes on."""
        return self._finalizer is not None and self._finalizer.alive and not self._events.is_over

    # Audio in

    def push(self, pcm: Pcm, sample_rate: int = 24_000) -> None:
        """Gives the bot something to hear; returns at once.

        Args:
            pcm: mono, any number of samples: [N] float32 from -1 to 1, [N] int16, or int16 bytes.
            sample_rate: in Hz, 4000 to 192000.

        Raises:
            AudioError: other samples, or another rate. Nothing of them is heard.
            BacklogFull: too much waits already, and `SessionConfig.when_late` does not say to leave out the
                oldest. Nothing of them is heard.
            SessionClosed: the conversation, or its input, has ended.
        """
        with self._lock:
            self._check_open()
            samples = to_float32(pcm, sample_rate)
            waiting_s = self.backlog_s + self._unread_s
            if waiting_s + len(samples) / sample_rate > self._longest_s:
                raise BacklogFull(
                    f"{self.backlog_s:.1f} s of input wait and {self._unread_s:.1f} s of output are unread; "
                    f"with this chunk it would be more than {self._longest_s:g} s"
                )
            self._send_frames(self._microphone.push(samples, sample_rate))

    async def send_audio(self, pcm: Pcm, sample_rate: int = 24_000) -> None:
        """Gives the bot audio as `push` does, and waits while too much input waits in a live conversation."""
        while self.is_open and self.config.live and self.backlog_s > _PATIENT_BACKLOG_S:
            await self._events.changed()
        self.push(pcm, sample_rate)

    def _send_frames(self, frames: list[InputFrame]) -> None:
        for frame in frames:
            if self._tap is not None:
                self._tap.heard(frame.pcm)
            self._backend.send(frame)
        self._inputs_sent += len(frames)

    def _check_open(self) -> None:
        if self._finalizer is None:
            raise SessionClosed(_NOT_OPEN)
        if self._input_has_ended:
            raise SessionClosed("the input has ended: nothing can be pushed after `finish`")
        if not self.is_open:
            raise SessionClosed("the conversation is over")

    @property
    def frames_pushed(self) -> int:
        """Counts the whole frames that the pushed audio has made so far.

        A live conversation begins with less than a frame of silence, which brings its frames in step with
        those of others.
        """
        return self._inputs_sent

    @property
    def backlog_s(self) -> float:
        """Returns the seconds of input that wait for the engine."""
        # A resumed conversation may bring frames of its own.
        return max(0, self._inputs_sent - self._events.inputs_taken) * FRAME_S

    @property
    def _unread_s(self) -> float:
        # What a live conversation leaves unread is dropped in time; elsewhere nothing is.
        return 0.0 if self.config.live else self._events.audio_s

    @property
    def _longest_s(self) -> float:
        if not self.config.live:
            return _LONGEST_FILE_S
        return _LOST_ENGINE_S if self.config.when_late == "drop_oldest" else _LONGEST_BACKLOG_S

    # In the conversation

    def say(self, text: str, at_once: bool = False, alone: bool = False) -> Future[None]:
        """Makes the bot speak a sentence; it chooses when each word comes.

        The result is there when the sentence has been taken, or raises InputError for one that the model has
        no pieces for; `asyncio.wrap_future` makes it awaitable. `SayFinished` tells when it is written,
        `SayHeard` when it has been spoken.

        Args:
            text: the sentence.
            at_once: begins now; else the model first finds its turn, which takes up to two seconds.
            alone: says nothing after it until the user speaks, or about a second has passed.
        """
        return self._backend.request(Say(self.key, text, at_once, alone))

    def hold(self, seconds: float) -> Future[None]:
        """Lets the bot listen and say nothing of its own for so long, as when an answer is on its way.

        It ends before with `release`, and with `say`. What is asked for while a hold lasts takes its place.
        The result raises InputError for less than 0 s or more than an hour.
        """
        return self._backend.request(Hold(self.key, seconds))

    def release(self) -> Future[None]:
        """Lets the bot speak of its own again."""
        return self._backend.request(Hold(self.key, 0))

    def ask(self) -> Future[int]:
        """Asks for something to speak about, as the model does: `ReferenceWanted` tells what has been said.

        The result is the number of the request. What is asked for by another one is then not wanted any more.
        """
        return self._backend.request(Ask(self.key, "application"))

    def refer(
        self, text: str | None, for_id: int | None = None, as_sentence: bool | None = None
    ) -> Future[Referral]:
        """Gives the bot something to speak about, in the way for which its checkpoint was trained.

        The result tells what has become of it: `taken`; `superseded` by a newer request; `late`, where the
        request is over; or `refused`, with the reason, such as that the checkpoint takes no references. Only
        what is taken is spoken. A newer text takes the place of what is left of an older one.

        Args:
            text: to speak about; None is for nothing found, and releases the bot.
            for_id: the request that it answers; None: the open one, or none at all.
            as_sentence: says the text as it is, whatever the checkpoint; None is as
                `SessionConfig.references` has it.

        Raises:
            InputError: no text. The result raises it for a number that no request has had.
        """
        if not isinstance(text, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"a reference of type {type(text).__name__}; accepted: text, or None")
        is_said = self._says_references if as_sentence is None else as_sentence
        return self._backend.request(refer_command(self.key, text, for_id, self._asking, is_said))

    def set_sampling(self, sampling: SamplingConfig) -> Future[None]:
        """Changes the sampling from the next frame on; the seed stays."""
        return self._backend.request(SetSampling(self.key, sampling))

    async def snapshot(self, end: bool = False, compact: bool = False) -> bytes:
        """Saves the conversation between two frames, for `Engine.session(resume=...)` with this model.

        Samples that make no whole frame yet are not part of it. Raises SessionClosed after the end.

        Args:
            end: ends the conversation there, with `Ended` for the reason `moved`. Without it the bot goes on
                here, and what it says from then on it would say once more where the snapshot is resumed.
            compact: leaves out the language model's cache, nearly all of the bytes. It is computed anew from
                the tokens of the last frames where the conversation goes on, which takes its time; what
                follows is the same but for rounding, until the call has been longer than the context.
        """
        return await asyncio.wrap_future(self.take_snapshot(end, compact))

    def take_snapshot(self, end: bool = False, compact: bool = False) -> Future[bytes]:
        """Saves the conversation as `snapshot` does; for threads."""
        return self._backend.request(TakeSnapshot(self.key, end, compact))

    def metrics(self) -> Future[SessionReport]:
        """Returns the figures of this conversation so far. Raises SessionClosed after the end."""
        return self._backend.request(TakeMetrics(self.key))

    # Events out

    def __aiter__(self) -> AsyncIterator[Event]:
        return aiter(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """Waits for the next event, in a thread; None after the end. Raises TimeoutError."""
        return self._events.get(timeout_s)

    # As a context

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await self.open_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _note_dropped(backend: Backend, key: Key, samples: int) -> None:
    backend.send(NoteDropped(key, samples))
