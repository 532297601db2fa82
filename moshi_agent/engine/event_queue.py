"""The queue between the engine and whoever holds a conversation: bounded, and never in the engine's way."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from moshi_agent.events import AudioChunk, Ended, Event, OutputDropped, Turn

_MOST_OTHER_EVENTS = 10_000  # than audio; beyond it the oldest go


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a step has brought for one conversation."""

    events: Sequence[Event]
    inputs_taken: int = 0  # input frames that are no longer waiting
    turns: Sequence[Turn] = ()  # that a resumed conversation has had already


Outlet = Callable[[Delivery], None]


class _Numbered(NamedTuple):
    place: int  # in the order of all events
    event: Event


class EventQueue:
    """Events in order. Beyond `longest_audio_s` the oldest audio is dropped, counted and reported.

    Any thread may put and any may get; waiting may be done by threads and on event loops.

    Args:
        longest_audio_s: seconds of audio that may wait.
        on_dropped: called with the number of samples that were dropped, by the thread that puts.
    """

    def __init__(
        self, longest_audio_s: float = math.inf, on_dropped: Callable[[int], object] | None = None
    ) -> None:
        self._longest_audio_s = longest_audio_s
        self._on_dropped = on_dropped
        # Each in order, and the next event is the first of one of them: so the oldest audio is at hand.
        self._audio: deque[_Numbered] = deque()
        self._others: deque[_Numbered] = deque()
        self._report: deque[_Numbered] = deque(maxlen=1)  # on audio dropped since the last one was taken
        self._put_count = 0
        self._changed = threading.Condition()
        self._waiters: set[_Waiter] = set()
        self._is_over = False
        self.audio_s = 0.0  # that waits here
        self.inputs_taken = 0
        self.dropped_samples = 0

    def put(self, delivery: Delivery) -> None:
        """Adds events; nothing is added after `Ended`."""
        with self._changed:
            dropped_before = self.dropped_samples
            self.inputs_taken += delivery.inputs_taken
            for event in delivery.events:
                if not self._is_over:
                    self._append(event)
            dropped = self.dropped_samples - dropped_before
            self._changed.notify_all()
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.wake()
        if dropped and self._on_dropped is not None:
            self._on_dropped(dropped)

    def _append(self, event: Event) -> None:
        numbered = _Numbered(self._put_count, event)
        self._put_count += 1
        if isinstance(event, AudioChunk):
            self._audio.append(numbered)
            self.audio_s += _seconds(event)
            while self.audio_s > self._longest_audio_s and len(self._audio) > 1:
                self._drop_oldest_audio()
            return
        self._is_over = isinstance(event, Ended)
        self._others.append(numbered)
        if len(self._others) > _MOST_OTHER_EVENTS and self._longest_audio_s < math.inf:
            self._others.popleft()

    def _drop_oldest_audio(self) -> None:
        """Leaves a report in its place, or adds to the one that is there: it is about older audio still."""
        place, oldest = self._audio.popleft()
        assert isinstance(oldest, AudioChunk)
        samples = len(oldest.pcm)
        self.audio_s -= _seconds(oldest)
        self.dropped_samples += samples
        if self._report:
            place, report = self._report[0]
            assert isinstance(report, OutputDropped)
            report = replace(report, samples=report.samples + samples)
        else:
            report = OutputDropped(
                frame=oldest.frame,
                media_s=oldest.media_s,
                wall_s=oldest.wall_s,
                samples=samples,
                was_silent=False,
            )
        self._report.append(_Numbered(place, report))

    def get(self, timeout_s: float | None = None) -> Event | None:
        """Returns the next event; None when there will be no more. Raises TimeoutError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._has_events:
                if self._is_over:
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no event within {timeout_s} s")
                self._changed.wait(left)
            return self._take()

    async def get_async(self) -> Event | None:
        """Returns the next event; None when there will be no more."""
        while True:
            with self._changed:
                if self._has_events:
                    return self._take()
                if self._is_over:
                    return None
                waiter = self._add_waiter()
            await self._wait_for(waiter)

    async def changed(self) -> None:
        """Returns after the next `put`, or at once where nothing more will come."""
        with self._changed:
            if self._is_over:
                return
            waiter = self._add_waiter()
        await self._wait_for(waiter)

    def ended(self) -> Awaitable[None]:
        """Waits, when awaited, until `Ended` has been put."""
        return _End(self)

    # These hold the queue and not the session, which would otherwise never be dropped.

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self.get_async()) is not None:
            yield event

    def __iter__(self) -> Iterator[Event]:
        while (event := self.get()) is not None:
            yield event

    def _add_waiter(self) -> _Waiter:
        waiter = _Waiter()
        self._waiters.add(waiter)
        return waiter

    async def _wait_for(self, waiter: _Waiter) -> None:
        try:
            await waiter.wait()
        finally:
            with self._changed:
                self._waiters.discard(waiter)

    def wait_for_end(self, timeout_s: float | None) -> bool:
        """Blocks until `Ended` has been put; False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_over, timeout_s)

    @property
    def is_over(self) -> bool:
        """Whether `Ended` has been put, read or not."""
        return self._is_over

    @property
    def _has_events(self) -> bool:
        return bool(self._audio or self._others or self._report)

    def _take(self) -> Event:
        first = min((events for events in (self._audio, self._others, self._report) if events), key=_place)
        event = first.popleft().event
        if isinstance(event, AudioChunk):
            self.audio_s -= _seconds(event)
        return event


class _End:
    """No coroutine: one that nobody awaits would be warned of."""

    def __init__(self, events: EventQueue) -> None:
        self._events = events

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        while not self._events.is_over:
            await self._events.changed()


class _Waiter:
    """A coroutine that waits, and the loop it waits on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    async def wait(self) -> None:
        await self._woken.wait()

    def wake(self) -> None:
        """May be called from any thread."""
        with suppress(RuntimeError):  # the loop has closed: nobody waits there any more
            self._loop.call_soon_threadsafe(self._woken.set)


def _place(events: deque[_Numbered]) -> int:
    return events[0].place


def _seconds(chunk: AudioChunk) -> float:
    return len(chunk.pcm) / chunk.sample_rate
