"""The queue between the engine and a consumer: in order, bounded, and waited at by threads and loops."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import AudioChunk, BotStarted, Ended, OutputDropped, TextToken
from moshi_agent.engine.event_queue import Delivery, EventQueue
from moshi_agent.events import Event


def chunk(frame: int, samples: int = 1920) -> AudioChunk:
    pcm = np.full(samples, frame, np.float32)
    return AudioChunk(frame=frame, media_s=0.08 * frame, wall_s=0.0, pcm=pcm, sample_rate=24_000)


def token(frame: int) -> TextToken:
    return TextToken(frame=frame, media_s=0.0, wall_s=0.0, text="a", token=7, aligned_frame=frame)


def ended(frame: int = 99) -> Ended:
    return Ended(frame=frame, media_s=0.0, wall_s=0.0, reason="finished")


def all_of(queue: EventQueue) -> list[Event]:
    events: list[Event] = []
    while True:
        try:
            event = queue.get(0)
        except TimeoutError:
            return events
        if event is None:
            return events
        events.append(event)


@given(st.lists(st.sampled_from([chunk, token])), st.integers(0, 5))
def test_with_room_for_all_every_event_comes_out_in_order(kinds: list, reads: int) -> None:
    queue = EventQueue()
    put, got = [], []
    for frame, kind in enumerate(kinds):
        put.append(kind(frame))
        queue.put(Delivery([put[-1]]))
        if reads and frame % reads == 0:
            got.append(queue.get(0))
    assert got + all_of(queue) == put
    assert queue.audio_s == pytest.approx(0)


@given(st.lists(st.sampled_from(["audio", "text", "read"]), max_size=60), st.integers(1, 6))
def test_beyond_the_limit_the_oldest_audio_goes_and_is_told_of_in_its_place(
    acts: list[str], longest: int
) -> None:
    told: list[int] = []
    queue = EventQueue(0.08 * longest + 0.001, told.append)
    put: list[Event] = []
    got: list[Event] = []
    for frame, act in enumerate(acts):
        if act == "read":
            got += [event for event in [_next(queue)] if event is not None]
        else:
            put.append(chunk(frame) if act == "audio" else token(frame))
            queue.put(Delivery([put[-1]]))
        assert queue.audio_s <= 0.08 * longest + 0.002
    got += all_of(queue)
    dropped = sum(event.samples for event in got if isinstance(event, OutputDropped))
    audio_put = [event.frame for event in put if isinstance(event, AudioChunk)]
    audio_got = [event.frame for event in got if isinstance(event, AudioChunk)]
    assert [e for e in got if isinstance(e, TextToken)] == [e for e in put if isinstance(e, TextToken)]
    assert dropped == 1920 * (len(audio_put) - len(audio_got)) == queue.dropped_samples == sum(told)
    assert [event.frame for event in got] == sorted(event.frame for event in got)
    assert audio_got == sorted(set(audio_got))
    newest = [frame for frame in audio_put if frame not in audio_got]
    assert not newest or not audio_got or max(audio_put) in audio_got


def _next(queue: EventQueue) -> Event | None:
    try:
        return queue.get(0)
    except TimeoutError:
        return None


def test_a_consumer_that_never_reads_costs_the_engine_no_time_and_no_memory() -> None:
    queue = EventQueue(longest_audio_s=20)
    for frame in range(30_000):
        queue.put(Delivery([chunk(frame, 192), token(frame)]))
    started = time.process_time()
    for frame in range(30_000, 31_000):
        queue.put(Delivery([chunk(frame, 192), token(frame)]))
    assert time.process_time() - started < 0.3  # a thousand frames: 80 s of conversation
    events = all_of(queue)
    assert len(events) < 15_000
    assert sum(isinstance(event, OutputDropped) for event in events) == 1


def test_nothing_comes_after_the_end() -> None:
    queue = EventQueue()
    queue.put(Delivery([chunk(0), ended(), token(1)]))
    queue.put(Delivery([token(2)]))
    assert [type(event) for event in queue] == [AudioChunk, Ended]
    assert queue.get() is None
    assert queue.is_over


def test_the_end_is_kept_however_full_the_queue_is() -> None:
    queue = EventQueue(longest_audio_s=1)
    for frame in range(20_000):
        queue.put(Delivery([token(frame)]))
    queue.put(Delivery([ended()]))
    assert isinstance(all_of(queue)[-1], Ended)


def test_get_waits_in_a_thread_and_gives_up_in_time() -> None:
    queue = EventQueue()
    with pytest.raises(TimeoutError, match=r"no event within 0\.01 s"):
        queue.get(0.01)
    threading.Timer(0.05, queue.put, [Delivery([token(3)])]).start()
    assert queue.get(10) == token(3)


def test_coroutines_wait_and_their_cancelled_waits_leave_nothing_behind() -> None:
    queue = EventQueue()

    async def main() -> Event | None:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue.get_async(), 0.001)
        assert not queue._waiters
        threading.Timer(0.05, queue.put, [Delivery([BotStarted(frame=0, media_s=0.0, wall_s=0.0)])]).start()
        return await queue.get_async()

    assert isinstance(asyncio.run(main()), BotStarted)


def test_two_loops_and_a_thread_all_learn_of_the_end() -> None:
    queue = EventQueue()

    async def wait() -> bool:
        await queue.ended()
        return queue.is_over

    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(wait()))) for _ in range(2)]
    threads.append(threading.Thread(target=lambda: results.append(queue.wait_for_end(10))))
    for thread in threads:
        thread.start()
    queue.put(Delivery([token(0)]))
    time.sleep(0.05)
    queue.put(Delivery([ended()]))
    for thread in threads:
        thread.join(10)
    assert results == [True] * 3


def test_a_loop_that_has_closed_while_it_waited_harms_nobody() -> None:
    queue = EventQueue()

    async def wait_a_little() -> None:
        task = asyncio.ensure_future(queue.get_async())
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(wait_a_little())
    queue.put(Delivery([token(0)]))
    assert queue.get(0) == token(0)
