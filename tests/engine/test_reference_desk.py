"""`on_reference` and `AskConfig.when`: the application's own functions, on threads and on event loops."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from moshi_agent import (
    AskConfig,
    Engine,
    Event,
    ReferenceEnded,
    ReferenceWanted,
    SayFinished,
    Session,
    SessionConfig,
    Turn,
)
from tests.engine.stepped_core import SILENCE, taken
from tests.engine.test_lookups import config, core_of, voice

ANSWER = "Your order is on its way."
QUIET = AskConfig(by_model=False, apology="Sorry.")


def ended(events: Sequence[Event]) -> list[tuple[int, str]]:
    return [(event.id, event.reason) for event in events if isinstance(event, ReferenceEnded)]


class Backend:
    """A stepped core whose sessions are driven by another thread as well: the one that looks things up."""

    def __init__(self) -> None:
        self.core = core_of("tokens")
        self._lock = threading.RLock()

    def send(self, command: Any) -> None:
        self.core.send(command)

    def request(self, command: Any, outlet: Any = None) -> Any:
        with self._lock:
            return self.core.request(command, outlet)

    def session(self, session_config: SessionConfig, on_reference: Any) -> Session:
        return Session(1, session_config, self, on_reference=on_reference)

    def go_on(self, session: Session, frames: int, one: Any = SILENCE) -> list[Event]:
        with self._lock:
            session.push(np.concatenate([one] * frames))
            self.core.settle()
            return taken(session)

    def until_over(self, session: Session, seconds: float = 30.0) -> list[Event]:
        """What is told until a request is over; time goes on meanwhile."""
        events: list[Event] = []
        end = time.monotonic() + seconds
        while not ended(events):
            assert time.monotonic() < end, "no request is over"
            time.sleep(0.01)
            events += taken(session)
        return events


def test_a_thread_looks_it_up() -> None:
    backend, threads = Backend(), list[str]()

    async def look_up(wanted: ReferenceWanted) -> str:
        threads.append(threading.current_thread().name)
        await asyncio.sleep(0.01)
        return f"Request {wanted.id}."

    with backend.session(config(QUIET), look_up) as session:
        session.ask()
        events = backend.until_over(session)
        assert ended(events) == [(1, "answered")]
        assert [event.text for event in events if isinstance(event, ReferenceEnded)] == ["Request 1."]
    assert threads == ["moshi-references-1"]
    end = time.monotonic() + 10
    while "moshi-references-1" in {thread.name for thread in threading.enumerate()}:
        backend.core.settle()
        assert time.monotonic() < end, "its thread outlives the conversation"
        time.sleep(0.01)


def test_an_event_loop_looks_it_up_on_itself() -> None:
    backend, loops = Backend(), list[object]()

    async def look_up(wanted: ReferenceWanted) -> str:
        loops.append(asyncio.get_running_loop())
        return ANSWER

    async def converse() -> None:
        async with backend.session(config(QUIET), look_up) as session:
            await asyncio.wrap_future(session.ask())
            events: list[Event] = []
            while not ended(events):
                await asyncio.sleep(0.01)
                events += taken(session)
            assert ended(events) == [(1, "answered")]
            assert loops == [asyncio.get_running_loop()]

    asyncio.run(asyncio.wait_for(converse(), 60))


@pytest.mark.parametrize("reason", ["superseded", "interrupted", "timed_out"])
def test_it_is_cancelled_when_it_is_not_wanted_any_more(reason: str) -> None:
    backend = Backend()
    began, cancelled = threading.Event(), threading.Event()

    async def look_up(wanted: ReferenceWanted) -> str:
        if wanted.id == 2:
            return ANSWER
        began.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    asking = AskConfig(by_model=False, timeout_s=20 * 0.08)
    with backend.session(config(asking), look_up) as session:
        backend.go_on(session, 5)
        session.ask()
        assert began.wait(30)
        if reason == "superseded":
            session.ask()
        else:
            events = backend.go_on(session, 12, voice() if reason == "interrupted" else SILENCE)
            events += backend.go_on(session, 12)
            assert ended(events) == [(1, reason)]
        assert cancelled.wait(30)
        if reason == "superseded":
            events = backend.until_over(session)
            assert (1, "superseded") in ended(events)
            assert session.refer(ANSWER, 1).result(10).outcome == "superseded"


async def _fails(wanted: ReferenceWanted) -> str:
    raise RuntimeError("the back end is down")


async def _answers_a_number(wanted: ReferenceWanted) -> Any:
    return 42


def _is_not_async(wanted: ReferenceWanted) -> Any:
    return ANSWER


@pytest.mark.parametrize("look_up", [_fails, _answers_a_number, _is_not_async])
def test_a_back_end_that_fails_is_told_of_and_the_caller_hears_something(
    look_up: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Backend()
    with (
        caplog.at_level(logging.INFO, "moshi_agent.engine"),
        backend.session(config(QUIET), look_up) as session,
    ):
        session.ask()
        assert ended(backend.until_over(session)) == [(1, "failed")]
        events = backend.go_on(session, 30)
        assert [event.text for event in events if isinstance(event, SayFinished)] == ["Sorry."]
    assert "request 1 was not answered" in caplog.text
    assert "request 1 for a reference, by application, is over" in caplog.text


def test_a_back_end_that_answers_in_another_language_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def look_up(wanted: ReferenceWanted) -> str:
        return "\u4f60\u597d"

    backend = Backend()
    with backend.session(config(QUIET), look_up) as session:
        session.ask()
        assert ended(backend.until_over(session)) == [(1, "failed")]
        end = time.monotonic() + 10
        while "is not spoken: refused" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(scope="module")
def process_engine() -> Iterator[Engine]:
    with Engine.load("tiny", device="cpu", capacity=2, admit_by_time=False, process=True) as engine:
        yield engine


@pytest.mark.slow
def test_an_engine_in_another_process_does_the_same(process_engine: Engine) -> None:
    """Functions stay here, turns and outcomes come over; what was found is said."""
    asked: list[tuple[Turn, ...]] = []

    async def look_up(wanted: ReferenceWanted) -> str:
        asked.append(wanted.turns)
        return ANSWER

    said = SessionConfig(
        asking=AskConfig(when=lambda turns: True, timeout_s=60.0), references="say", live=False, tail_ms=0
    )
    session = process_engine.session(said, on_reference=look_up)
    with session:
        session.say("Hello there.", at_once=True, alone=True)
        session.push(np.concatenate([SILENCE] * 40))
        while session.backlog_s or not session.transcript.turns:
            session.next_event(30)
        session.ask().result(30)
        event = session.next_event(30)
        while not isinstance(event, ReferenceEnded):
            event = session.next_event(30)
        assert (event.reason, event.text) == ("answered", ANSWER)
        saved = session.take_snapshot().result(30)
        turns = session.transcript.turns
    assert asked and asked[0][-1].text == "Hello there."
    with process_engine.session(SessionConfig(live=False), resume=saved) as again:
        assert again.transcript.turns == turns
