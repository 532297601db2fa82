"""Callers that talk to an engine in real time, and note how long each of their frames takes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import soxr

from moshi_agent import Engine, Session, SessionConfig
from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from moshi_agent.errors import EngineUnhealthy
from moshi_agent.events import AudioChunk, ContextFull, Ended, Event, InputResumed, InputSkipped, InputStalled
from moshi_agent.questions import sample_questions

_PAUSE_S = 4.0  # after a question, for its answer


@dataclass(frozen=True, kw_only=True)
class Line:
    """How a caller's audio comes to the engine."""

    rate_hz: int = 16_000
    chunk_s: float = 0.02
    jitter_s: float = 0.01  # by at most so much a chunk is late


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a conversation has behind it when its caller comes in."""

    snapshot: bytes | None = None
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Answered:
    """A frame and its answer, on the monotonic clock."""

    at: float
    latency_s: float  # since the push that completed the frame


class FrameTimes:
    """Which frame of the input an event answers, and how long that took."""

    def __init__(self, begins_at_frame: int = 0) -> None:
        self._complete_at: list[float] = []  # of each frame
        self._shift = -begins_at_frame  # from a frame's number in the engine to that of the input
        self._stalled = False

    def pushed(self, frames: int, now: float) -> None:
        """Notes that with what has been pushed now, so many frames are complete."""
        self._complete_at += [now] * (frames - len(self._complete_at))

    def heard(self, event: Event, now: float) -> Answered | None:
        """Returns what an event of the conversation answers, if it does: audio, while the input comes."""
        match event:
            case InputStalled():
                self._stalled = True
            case InputResumed(silent_frames=silences):
                self._stalled = False
                self._shift -= silences
            case InputSkipped(frames=skipped):
                self._shift += skipped
            case AudioChunk() if not self._stalled:
                return Answered(now, now - self._complete_at[event.frame + self._shift])
            case _:
                pass
        return None


class Caller:
    """One conversation: asks the sample questions, with pauses, and listens."""

    def __init__(self, number: int, session: Session, speech: Samples, line: Line, begins_at: int) -> None:
        self.answers: list[Answered] = []
        self.late_s: list[tuple[float, float]] = []  # when a chunk was pushed, by how much too late
        self._session, self._speech, self._line = session, speech, line
        self._times = FrameTimes(begins_at)
        self._random = Random(number)
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Takes a row of the engine and starts to talk."""
        await self._session.open_async()
        self._tasks = [asyncio.create_task(self._speak()), asyncio.create_task(self._listen())]

    async def end(self) -> None:
        """Hangs up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._session.close()

    def check(self) -> None:
        """Raises what has ended the call, if anything has."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _speak(self) -> None:
        line, chunk = self._line, round(self._line.rate_hz * self._line.chunk_s)
        begin = time.monotonic() + self._random.random() * FRAME_S
        for number in itertools.count():
            due = begin + number * line.chunk_s + self._random.random() * line.jitter_s
            await asyncio.sleep(due - time.monotonic())
            now = time.monotonic()
            self.late_s.append((now, now - due))
            start = number * chunk % (len(self._speech) - chunk)
            self._session.push(self._speech[start : start + chunk], line.rate_hz)
            self._times.pushed(self._session.frames_pushed, now)

    async def _listen(self) -> None:
        async for event in self._session:
            now = time.monotonic()
            answered = self._times.heard(event, now)
            if answered is not None:
                self.answers.append(answered)
            if isinstance(event, Ended):
                raise EngineUnhealthy(f"a conversation ended ({event.reason}): {event.error or 'no reason'}")


class Crowd:
    """Callers of one engine, as many as asked for."""

    def __init__(self, engine: Engine, line: Line, beginning: Beginning | None = None) -> None:
        self.callers: list[Caller] = []
        self._engine, self._line = engine, line
        self._beginning = beginning or Beginning()
        self._questions = spoken_questions(line.rate_hz)

    async def resize(self, count: int) -> None:
        """Lets callers come in, or the latest hang up, until there are so many."""
        while len(self.callers) > count:
            await self.callers.pop().end()
        while len(self.callers) < count:
            caller = self._caller(len(self.callers))
            await caller.begin()
            self.callers.append(caller)

    def _caller(self, number: int) -> Caller:
        # Each begins with a question of its own.
        first = number % len(self._questions)
        speech = np.concatenate([*self._questions[first:], *self._questions[:first]])
        session = self._engine.session(SessionConfig(seed=number), resume=self._beginning.snapshot)
        return Caller(number, session, speech, self._line, self._beginning.frames)

    def check(self) -> None:
        """Raises what has ended a call, if anything has."""
        for caller in self.callers:
            caller.check()


def spoken_questions(rate_hz: int) -> list[Samples]:
    """Returns the sample questions [N] at this rate, each with the pause after it."""
    pause = np.zeros(round(_PAUSE_S * rate_hz), np.float32)
    questions = [read_audio(question.path) for question in sample_questions()]
    return [np.concatenate([_at_rate(question, rate_hz), pause]) for question in questions]


def _at_rate(samples: Samples, rate_hz: int) -> Samples:
    return samples if rate_hz == SAMPLE_RATE_HZ else soxr.resample(samples, SAMPLE_RATE_HZ, rate_hz)


async def full_context(engine: Engine, speech: Sequence[Samples], longest_s: float = 3600.0) -> Beginning:
    """Tells whether a conversation has filled the model's context, by its `ContextFull` event.

    Args:
        speech: heard one after the other, at 24 kHz.
        longest_s: after this the model is taken for one that has no limit.

    Raises:
        EngineUnhealthy: the context was not full by then.
    """
    frames, full = 0, asyncio.Event()
    async with engine.session(SessionConfig(seed=0, live=False)) as session:
        listening = asyncio.create_task(_await_full(session, full))
        for question in itertools.cycle(speech):
            if full.is_set() or frames * FRAME_S > longest_s:
                break
            whole = len(question) // FRAME_SAMPLES
            session.push(question[: whole * FRAME_SAMPLES])
            frames += whole
            # The engine tells nobody that it has heard everything.
            while session.backlog_s > 0 and session.is_open:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        snapshot = await session.snapshot()
        listening.cancel()
    if not full.is_set():
        raise EngineUnhealthy(f"the model's context is not full after {frames * FRAME_S:.0f} s")
    return Beginning(snapshot=snapshot, frames=frames)


async def _await_full(session: Session, full: asyncio.Event) -> None:
    async for event in session:
        if isinstance(event, ContextFull):
            full.set()
