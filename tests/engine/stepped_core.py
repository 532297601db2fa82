"""An engine's core without a thread, on a clock that goes only when it is told to."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.call.model import model_of
from moshi_agent.engine.capacity import StepTimes
from moshi_agent.engine.commands import Command, Open, Refer
from moshi_agent.engine.config import EngineConfig, SessionConfig
from moshi_agent.engine.core import Core
from moshi_agent.engine.event_queue import EventQueue, Outlet
from moshi_agent.engine.inbox import Inbox
from moshi_agent.engine.references import References
from moshi_agent.engine.session import Session
from moshi_agent.engine.step.frame_step import FrameStep
from moshi_agent.engine.step.recogniser_step import RecogniserStep
from moshi_agent.engine.user_transcriber import UserTranscriber
from moshi_agent.events import AudioChunk, Event
from moshi_agent.nn.cuda_graphs import GraphDevice

FRAME_S = 0.08
TICK_S = 0.01
SILENCE = np.zeros(1920, np.float32)


class SteppedCore:
    """A `Core` and the backend of its sessions: what is sent or requested is obeyed at once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        times: StepTimes | None = None,
        recogniser: Checkpoint | None = None,
        graphs: GraphDevice | bool = False,
        **config: Any,
    ) -> None:
        assert checkpoint.lm is not None
        self.config = EngineConfig(**{"capacity": 4, **config})
        self.now = 100.0
        self.tick_s = 0.0  # that pass with every look at the clock
        rows = self.config.capacity
        self.step = FrameStep(checkpoint, rows, graphs=graphs)
        self.recogniser = None if recogniser is None else RecogniserStep(recogniser, rows, graphs=graphs)
        self.inbox = Inbox()
        own = self.config.transcriber
        self.transcriber = UserTranscriber(own, self.inbox.send) if callable(own) else None
        write_down = self.transcriber and self.transcriber.take
        model = model_of(checkpoint, self.recogniser and self.recogniser.hearing, write_down)
        encode = self.config.reference_encoder
        self.references = References(checkpoint, encode if callable(encode) else None)
        advised = checkpoint.advised_sampling
        self.core = Core(
            self.inbox,
            self.step,
            replace(model, delay_s=0.0),
            advised,
            self.config,
            times or StepTimes(),
            clock=self._clock,
            recogniser=self.recogniser,
        )
        self.steps = 0
        self._key = 0

    def _clock(self) -> float:
        self.now += self.tick_s
        return self.now

    def send(self, command: Command) -> None:
        self.inbox.send(command)

    def request(self, command: Command, outlet: Outlet | None = None) -> Future[Any]:
        if isinstance(command, Refer):
            return self.references.refer(command, self.request)
        reply = self.inbox.request(command, outlet)
        self.settle()
        return reply

    def session(self, config: SessionConfig | None = None, resume: bytes | None = None) -> Session:
        """An open session."""
        self._key += 1
        return Session(self._key, config or SessionConfig(seed=self._key), self, resume).open()

    def knock(self, config: SessionConfig | None = None) -> tuple[int, Future[Any], EventQueue]:
        """Asks for a conversation, without waiting for the answer."""
        self._key += 1
        events = EventQueue()
        return (
            self._key,
            self.request(Open(self._key, config or SessionConfig(seed=self._key)), events.put),
            events,
        )

    def settle(self) -> None:
        """Obeys and steps until nothing is left to do at this moment."""
        while self.core.run_once():
            self.steps += 1

    def wait(self, seconds: float) -> None:
        """Lets time pass."""
        end = self.now + seconds
        self.settle()
        while self.now < end - 1e-9:
            self.now = min(end, self.now + TICK_S)
            self.settle()


def taken(session: Session) -> list[Event]:
    """The events that are there now."""
    events: list[Event] = []
    while True:
        try:
            event = session.next_event(0)
        except TimeoutError:
            return events
        if event is None:
            return events
        events.append(event)


def audio_of(events: list[Event]) -> np.ndarray:
    """All audio [N]."""
    chunks = [event.pcm for event in events if isinstance(event, AudioChunk)]
    return np.concatenate(chunks) if chunks else np.empty(0, np.float32)


def kinds_of(events: list[Event], *kinds: type[Event]) -> list[Event]:
    """Those of these kinds."""
    return [event for event in events if isinstance(event, kinds)]
