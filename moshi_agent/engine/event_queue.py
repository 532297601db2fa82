"""The queue between the engine and whoever holds a conversation: bounded, and never in the engine's way."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from moshi_agent.events import AudioChunk, Ended, Event, OutputDropped

_MOST_EVENTS = 10_000  # of any kind; beyond it the oldest go


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a step has brought for one conversation."""

    events: Sequence[Event]
    inputs_taken: int = 0  # input frames that are no longer waiting


class EventQueue:
    """Events in order. Beyond `longest_audio_s` the oldest audio is dropped, counted and reported.

    Any thread may put and any may get; waiting may be done by threads and by one event loop.
    """

    def __init__(self, longest_audio_s: float = math.inf) -> None:
        self._longest_audio_s = longest_audio_s
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._waiters: list[Callable[[], None]] = []
        self._over = False
        self.audio_s = 0.0  # that waits here
        self.inputs_taken = 0
        self.dropped_samples = 0

    def put(self, delivery: Delivery) -> None:
        """Adds events; nothing is added after `Ended`."""
        with self._changed:
            self.inputs_taken += delivery.inputs_taken
            for event in delivery.events:
                if not self._over:
                    self._append(event)
            self._changed.notify_all()
            waiters, self._waiters = self._waiters, []
        for wake in waiters:
            wake()

    def _append(self, event: Event) -> None:
        self._events.append(event)
        self._over = isinstance(event, Ended)
        if isinstance(event, AudioChunk):
            self.audio_s += _seconds(event)
            if self.audio_s > self._longest_audio_s:
                self._drop_oldest_audio()
        if len(self._events) > _MOST_EVENTS and self._longest_audio_s < math.inf:
            self._take()

    def _drop_oldest_audio(self) -> None:
        index, oldest = next((i, e) for i, e in enumerate(self._events) if isinstance(e, AudioChunk))
        self.audio_s -= _seconds(oldest)
        self.dropped_samples += len(oldest.pcm)
        samples = len(oldest.pcm)
        del self._events[index]
        before = self._events[index - 1] if index else None
        if isinstance(before, OutputDropped) and not before.was_silent:
            samples += before.samples
            del self._events[index - 1]
            index -= 1
        report = OutputDropped(
            frame=oldest.frame,
            media_s=oldest.media_s,
            wall_s=oldest.wall_s,
            samples=samples,
            was_silent=False,
        )
        self._events.insert(index, report)

    def get(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when there will be no more. Raises TimeoutError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._events:
                if self._over:
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no event within {timeout_s} s")
                self._changed.wait(left)
            return self._take()

    async def get_async(self) -> Event | None:
        """The next event; None when there will be no more."""
        while True:
            with self._changed:
                if self._events:
                    return self._take()
                if self._over:
                    return None
                wake = self._add_waiter()
            await wake.wait()

    async def changed(self) -> None:
        """Returns after the next `put`, or at once where nothing more will come."""
        with self._changed:
            if self._over:
                return
            wake = self._add_waiter()
        await wake.wait()

    def _add_waiter(self) -> asyncio.Event:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        self._waiters.append(lambda: _wake(loop, event))
        return event

    def wait_until(self, predicate: Callable[[], bool], timeout_s: float | None) -> bool:
        """Blocks until the predicate, of this queue's state, holds or no more will come."""
        with self._changed:
            return self._changed.wait_for(lambda: self._over or predicate(), timeout_s)

    @property
    def is_over(self) -> bool:
        """Whether `Ended` has been put, read or not."""
        return self._over

    @property
    def end(self) -> Ended | None:
        """The last event, once it is there and unread."""
        last = self._events[-1] if self._events else None
        return last if isinstance(last, Ended) else None

    def _take(self) -> Event:
        event = self._events.popleft()
        if isinstance(event, AudioChunk):
            self.audio_s -= _seconds(event)
        return event


def _seconds(chunk: AudioChunk) -> float:
    return len(chunk.pcm) / chunk.sample_rate


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop has closed: nobody waits there any more
        loop.call_soon_threadsafe(event.set)
