"""The life of sessions and engines: begun, ended and forgotten, with no row, thread or task left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from moshi_agent import (
    AudioChunk,
    ConfigError,
    Ended,
    Engine,
    EngineFull,
    EngineUnhealthy,
    Event,
    SessionConfig,
)
from tests.engine.stepped_core import SILENCE, kinds_of

SECOND = np.zeros(24_000, np.float32)
FILE = SessionConfig(seed=1, live=False, tail_ms=0)


def live_sessions(engine: Engine) -> int:
    return engine.metrics().live_sessions


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within some seconds."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture(autouse=True)
def nobody_left(engine: Engine) -> Iterator[None]:
    """Every test frees the rows and ends the threads that it was given."""
    threads = set(threading.enumerate())
    yield
    gc.collect()
    assert soon(lambda: live_sessions(engine) == 0)
    assert soon(lambda: set(threading.enumerate()) <= threads)


def test_leaving_with_an_exception_frees_the_row_at_once(engine: Engine) -> None:
    async def main() -> None:
        with pytest.raises(KeyError):
            async with engine.session() as session:
                await session.send_audio(SILENCE)
                assert live_sessions(engine) == 1
                raise KeyError
        await asyncio.sleep(0)

    asyncio.run(main())
    assert soon(lambda: live_sessions(engine) == 0)
    with pytest.raises(KeyError), engine.session() as session:
        session.push(SILENCE)
        raise KeyError
    assert soon(lambda: live_sessions(engine) == 0)


def test_closing_twice_or_ten_times_is_closing(engine: Engine) -> None:
    async def main() -> None:
        session = await engine.session(FILE).open_async()
        for _ in range(3):
            await session.aclose()
        session.close()
        events = [event async for event in session]
        assert [type(event) for event in events] == [Ended]
        assert [event async for event in session] == []
        await session.finish()

    asyncio.run(main())


def test_a_session_that_nobody_refers_to_is_closed(engine: Engine) -> None:
    heard: list[Event] = []
    session = engine.open_session(on_event=heard.append)
    session.push(SILENCE)
    assert live_sessions(engine) == 1
    del session
    gc.collect()
    assert soon(lambda: bool(kinds_of(heard, Ended)))


def test_reading_does_not_keep_a_session_alive(engine: Engine) -> None:
    events = iter(engine.open_session(FILE))
    gc.collect()
    assert [type(event) for event in events] == [Ended]


def test_callbacks_come_in_a_thread_of_their_own_and_may_fail(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    chunks: list[AudioChunk] = []
    threads: set[str] = set()

    def on_audio(chunk: AudioChunk) -> None:
        chunks.append(chunk)
        threads.add(threading.current_thread().name)
        if len(chunks) == 1:
            raise ValueError("the callback's own fault")

    session = engine.open_session(FILE, on_audio=on_audio)
    session.push(SECOND)
    session.finish()
    assert session.wait(30)
    assert len(chunks) == 13
    assert threads == {f"moshi-session-{session.key}"}
    assert f"session {session.key}: a callback failed" in caplog.text
    assert "the callback's own fault" in caplog.text


def test_a_callback_may_close_its_session_and_wait(engine: Engine) -> None:
    waited: list[bool] = []

    def on_event(event: Event) -> None:
        session.close()
        waited.append(session.wait(10))

    session = engine.open_session(FILE, on_event=on_event)
    session.push(SECOND)
    assert session.wait(30)
    assert all(waited)


def test_many_threads_may_push_to_one_session(engine: Engine) -> None:
    with engine.session(FILE) as session:
        pushers = [threading.Thread(target=session.push, args=(SILENCE,)) for _ in range(12)]
        for pusher in pushers:
            pusher.start()
        for pusher in pushers:
            pusher.join()
        session.finish()
        chunks = kinds_of(list(session), AudioChunk)
    assert [chunk.frame for chunk in chunks] == list(range(12))


def test_a_reader_in_a_thread_is_released_by_the_end(engine: Engine) -> None:
    session = engine.open_session()
    events: list[Event] = []
    reader = threading.Thread(target=lambda: events.extend(session))
    reader.start()
    session.close()
    reader.join(20)
    assert not reader.is_alive()
    assert isinstance(events[-1], Ended)
    assert events[-1].reason == "closed"


def test_a_task_that_is_cancelled_while_it_reads_leaves_a_session_that_goes_on(engine: Engine) -> None:
    async def main() -> list[Event]:
        async with engine.session(FILE) as session:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(aiter(session)), 0.05)
            await session.send_audio(SECOND)
            await session.finish()
            return [event async for event in session]

    assert len(kinds_of(asyncio.run(main()), AudioChunk)) == 13


def test_output_at_another_rate_is_all_there(engine: Engine) -> None:
    config = SessionConfig(seed=1, live=False, tail_ms=0, output_sample_rate=8_000)
    with engine.session(config) as session:
        session.push(SECOND)
        session.finish()
        chunks = [event for event in session if isinstance(event, AudioChunk)]
    samples = sum(len(chunk.pcm) for chunk in chunks)
    assert {chunk.sample_rate for chunk in chunks} == {8_000}
    assert 13 * 640 - 16 <= samples <= 13 * 640


def test_an_engine_leaves_no_thread_and_its_sessions_end() -> None:
    threads = set(threading.enumerate())
    engine = Engine.load("tiny", device="cpu", capacity=1, waiting=1, wait_timeout_s=60, shared=False)
    with pytest.raises(EngineUnhealthy, match="has not been started"):
        engine.open_session()
    assert engine.capacity().refusal == "the engine has not been started"
    with engine:
        session = engine.open_session(on_event=lambda event: None)
        refused: list[BaseException] = []
        waiter = threading.Thread(target=_open, args=(engine, refused))
        waiter.start()
        asyncio.run(_give_up_waiting(engine))
        assert engine.capacity().live == 1
        assert engine.capacity().free == 0
        assert engine.capacity().refusal == "no row is free: 1 conversation, capacity 1"
        assert engine.capacity().by_memory > 1
        assert engine.capacity().step_ms[1] > 0
    waiter.join(20)
    assert isinstance(refused[0], EngineUnhealthy)
    assert session.wait(20)
    with pytest.raises(EngineUnhealthy, match="the engine is closed"):
        engine.open_session()
    engine.close()
    assert soon(lambda: set(threading.enumerate()) <= threads)


def _open(engine: Engine, refused: list[BaseException]) -> None:
    try:
        engine.open_session()
    except Exception as error:
        refused.append(error)


async def _give_up_waiting(engine: Engine) -> None:
    """The queue of those who wait may be full already; in either case nothing is left behind."""
    with pytest.raises((TimeoutError, EngineFull)):
        async with asyncio.timeout(0.1):
            await engine.session().open_async()


@pytest.mark.parametrize(
    "fields",
    [
        {"stall_ms": -1},
        {"queue_s": float("inf")},
        {"tail_ms": float("nan")},
        {"output_limit_ms": 0},
        {"silence_floor_dbfs": float("nan")},
        {"output_sample_rate": 0},
        {"seed": 2**63},
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(fields))}=.*accepted"):
        SessionConfig(**fields)  # type: ignore[arg-type]
