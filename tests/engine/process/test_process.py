"""The engine in a process of its own: the same conversations, and whole again after the process has died."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent import (
    AudioChunk,
    CheckpointError,
    ConfigError,
    Ended,
    Engine,
    EngineConfig,
    EngineFull,
    EngineUnhealthy,
    Event,
    InputError,
    SamplingConfig,
    SayFinished,
    Session,
    SessionClosed,
    SessionConfig,
    TextToken,
)
from moshi_agent.engine.commands import Ping
from moshi_agent.engine.process.process import ProcessBackend, RestartPauses

ANSWER = "You are very welcome."
FILE = SessionConfig(seed=1, live=False, tail_ms=2400)
OPTIONS: dict[str, Any] = {"device": "cpu", "capacity": 2, "admit_by_time": False}

Samples = NDArray[np.float32]


@pytest.fixture(scope="module")
def remote() -> Iterator[Engine]:
    """Two rows of `tiny` in a process of their own."""
    with Engine.load("tiny", process=True, **OPTIONS) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(remote: Engine, thanks: Samples) -> list[Event]:
    """A conversation of its own."""
    return converse(remote, thanks)


def converse(engine: Engine, samples: Samples, config: SessionConfig = FILE) -> list[Event]:
    with engine.session(config) as session:
        session.push(samples)
        session.finish()
        return list(session)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextToken)).strip()


def audio_of(events: list[Event]) -> Samples:
    return np.concatenate([event.pcm for event in events if isinstance(event, AudioChunk)])


def tokens_of(events: list[Event]) -> list[tuple[int, int]]:
    return [(event.frame, event.token) for event in events if isinstance(event, TextToken)]


def ended(session: Session) -> Ended:
    *_, last = session
    assert isinstance(last, Ended)
    return last


def eventually(holds: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def the_child() -> int:
    """The process that was begun last: other files may have left some."""
    return max(child.pid for child in multiprocessing.active_children() if child.pid is not None)


def test_a_conversation_is_the_same_to_the_last_bit(
    alone: list[Event], engine: Engine, thanks: Samples
) -> None:
    there, here = alone, converse(engine, thanks)
    assert text_of(there) == text_of(here) == ANSWER
    assert tokens_of(there) == tokens_of(here)
    np.testing.assert_array_equal(audio_of(there), audio_of(here))
    assert [type(event) for event in there] == [type(event) for event in here]


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_and_another_one_serves(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "moshi_agent.engine")
    known = set(multiprocessing.active_children())
    with Engine(EngineConfig(process=True, hang_s=1.0, **OPTIONS)) as engine:
        (child,) = set(multiprocessing.active_children()) - known
        assert child.pid is not None
        session = engine.open_session(FILE)
        os.kill(child.pid, signal.SIGSTOP)
        assert ended(session).reason == "engine_lost"
        assert f"{child.pid} has not answered for 1 s" in caplog.text
        engine.start()
        assert engine.capacity().free == 2


@pytest.mark.slow
def test_questions_to_a_process_that_hangs_have_a_deadline_and_hold_up_no_event_loop() -> None:
    async def ask(engine: Engine) -> tuple[bool, float]:
        began, turns = time.monotonic(), 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        turning = asyncio.create_task(turn())
        metrics = await engine.metrics_async()
        with pytest.raises(EngineUnhealthy, match="has not answered within 2 s"):
            await engine.capacity_async()
        turning.cancel()
        assert turns > 50
        return metrics.healthy, time.monotonic() - began

    known = set(multiprocessing.active_children())
    with Engine(EngineConfig(process=True, hang_s=None, **OPTIONS)) as engine:
        (child,) = set(multiprocessing.active_children()) - known
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        try:
            healthy, seconds = asyncio.run(ask(engine))
            with pytest.raises(EngineUnhealthy, match="has not answered within 2 s"):
                engine.capacity()
        finally:
            os.kill(child.pid, signal.SIGCONT)
        assert not healthy
        assert seconds < 10


def test_two_conversations_at_once_do_not_mix(remote: Engine, alone: list[Event], thanks: Samples) -> None:
    with remote.session(FILE) as one, remote.session(FILE) as other:
        for start in range(0, len(thanks), 1000):
            one.push(thanks[start : start + 1000])
            other.push(thanks[start : start + 1000])
        with pytest.raises(EngineFull, match="no row is free"):
            remote.open_session()
        one.finish(), other.finish()
        both = list(one), list(other)
    for events in both:
        assert tokens_of(events) == tokens_of(alone)
        np.testing.assert_array_equal(audio_of(events), audio_of(alone))


def test_requests_are_answered_or_fail_as_in_the_same_process(remote: Engine, thanks: Samples) -> None:
    with remote.session(FILE) as session:
        session.say(ANSWER).result(10)
        session.set_sampling(SamplingConfig(greedy=True)).result(10)
        with pytest.raises(InputError, match="not fit"):
            session.say(lambda: None).result(10)  # pyright: ignore[reportArgumentType]
        session.push(thanks)
        snapshot = session.take_snapshot().result(10)
        session.finish()
        assert any(isinstance(event, SayFinished) for event in session)
    with pytest.raises(SessionClosed):
        session.take_snapshot().result(10)
    with remote.session(FILE, resume=snapshot) as session:
        session.finish()
        assert ended(session).reason == "finished"
    with pytest.raises(InputError):
        remote.session(FILE, resume=b"nothing of the kind").open()


def test_prompts_capacity_and_metrics_come_across(remote: Engine, thanks: Samples) -> None:
    prompt = remote.prompt(text="Hello.", audio=thanks)
    assert prompt.tokens.shape[0] >= len(thanks) // 1920
    with pytest.raises(ConfigError, match="a prompt needs text or audio"):
        remote.prompt()
    before = remote.metrics()
    assert before.healthy and before.live_sessions == 0
    with remote.session(SessionConfig(seed=1, live=False, prompt=prompt)) as session:
        assert remote.capacity().live == remote.metrics().live_sessions == 1
        session.push(np.zeros(1920, np.float32))
        assert session.next_event(30) is not None
    assert remote.capacity().rows == 2
    assert remote.metrics().frames == before.frames + 1


def test_frame_latency_is_measured_across_the_processes(remote: Engine) -> None:
    with remote.session(SessionConfig(seed=1)) as session:
        session.push(np.zeros(1920, np.float32))
        assert session.next_event(30) is not None
        latency = session.metrics().result(10).latency_s
    assert latency.count == 1 and 0 < latency.max < 30
    assert remote.metrics().latency_s.max >= latency.max


def test_a_session_that_nobody_refers_to_frees_its_row(remote: Engine) -> None:
    session = remote.open_session(on_audio=lambda chunk: None)
    assert remote.metrics().live_sessions == 1
    del session
    gc.collect()
    assert eventually(lambda: remote.metrics().live_sessions == 0)


def test_the_death_of_the_process_is_told_and_another_one_answers(
    remote: Engine, thanks: Samples, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moshi_agent.engine")
    heard: list[Event] = []
    session, other = remote.open_session(FILE), remote.open_session(FILE, on_event=heard.append)
    session.push(thanks)
    assert isinstance(session.next_event(30), Event)
    child, errors = the_child(), remote.metrics().errors
    os.kill(child, signal.SIGSTOP)  # so that it does not answer any more
    pending: Future[bytes] = session.take_snapshot()
    os.kill(child, signal.SIGKILL)

    last = ended(session)
    assert last.reason == "engine_lost" and last.error is not None and "signal 9" in last.error
    assert other.wait(10) and isinstance(heard[-1], Ended) and heard[-1].reason == "engine_lost"
    with pytest.raises(EngineUnhealthy, match="signal 9"):
        pending.result(10)
    with pytest.raises(SessionClosed):
        session.push(thanks)
    (lost,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert lost.getMessage() == (
        "engine process lost: it was ended by signal 9, Killed; 2 conversations lost; "
        "another one is started, 1 restart so far"
    )
    assert vars(lost).items() >= {"lost": 2, "restarts": 1, "starts_again": True}.items()
    for each in (session, other):
        assert re.search(rf"session {each.key} ended after \d\.\d s: engine_lost, .*signal 9", caplog.text)
    assert not remote.metrics().healthy
    with pytest.raises(EngineUnhealthy, match="being started again"):
        remote.open_session()

    remote.start()
    assert the_child() != child
    assert eventually(lambda: "serves in place of the one that was lost" in caplog.text)
    assert remote.capacity().free == 2
    assert text_of(converse(remote, thanks)) == ANSWER
    metrics = remote.metrics()
    assert (metrics.healthy, metrics.restarts, metrics.errors) == (True, 1, errors + 2)
    session.close(), other.close()
    assert remote.metrics().live_sessions == 0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"dtype": "float33"}, ConfigError, "dtype='float33'; accepted: float32, bfloat16, float16"),
        ({"source": "./no-such-folder"}, CheckpointError, "no-such-folder"),
    ],
)
def test_what_cannot_be_loaded_raises_as_in_the_same_process(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    children = set(multiprocessing.active_children())
    with pytest.raises(kind, match=message):
        Engine.load(**{"source": "tiny", **options}, process=True, shared=False)
    assert set(multiprocessing.active_children()) == children


def test_closing_ends_the_conversations_and_leaves_nothing() -> None:
    threads, children = set(threading.enumerate()), set(multiprocessing.active_children())
    files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    engine = Engine.load("tiny", process=True, shared=False, **OPTIONS)
    with pytest.raises(EngineUnhealthy, match="not been started"):
        engine.open_session()
    engine.start()
    session = engine.open_session(SessionConfig(seed=1))
    engine.close()
    engine.close()
    assert ended(session).reason == "closed"
    with pytest.raises(EngineUnhealthy, match="closed"):
        engine.open_session()
    assert not engine.metrics().healthy
    gc.collect()
    assert set(threading.enumerate()) == threads
    assert set(multiprocessing.active_children()) == children
    if files:
        assert len(os.listdir("/proc/self/fd")) <= files


@pytest.mark.slow
def test_a_process_that_dies_again_and_again_is_waited_for_longer() -> None:
    backend = ProcessBackend(EngineConfig(**OPTIONS), RestartPauses(first_s=1000, most_s=1000))
    for restarts in (1, 2):  # the second one waits
        backend.start()  # returns when it serves again
        assert eventually(lambda: backend.metrics.snapshot().healthy)
        assert backend.pid is not None
        os.kill(backend.pid, signal.SIGKILL)
        assert eventually(lambda restarts=restarts: backend.restarts.taken == restarts)
        assert not backend.metrics.snapshot().healthy
        with pytest.raises(EngineUnhealthy):
            backend.capacity()
    with pytest.raises(EngineUnhealthy, match="being started again"):
        backend.request(Ping()).result(5)
    waiting = Future[None]()
    thread = threading.Thread(target=lambda: _into(waiting, backend.start))
    thread.start()
    began = time.monotonic()
    backend.stop()
    assert time.monotonic() - began < 20
    thread.join(20)
    with pytest.raises(EngineUnhealthy, match="closed"):
        waiting.result(0)


def _into(future: Future[None], work: Callable[[], None]) -> None:
    """What becomes of work in another thread."""
    try:
        future.set_result(work())
    except EngineUnhealthy as error:
        future.set_exception(error)


@given(st.lists(st.integers(0, 400), max_size=30))
def test_pauses_grow_until_a_process_has_lived_for_long(lives_s: list[int]) -> None:
    pauses, now, in_a_row = RestartPauses(first_s=1, most_s=60, well_s=300), 0.0, 0
    assert pauses.take(now) == 0
    for lived_s in lives_s:
        now += lived_s
        in_a_row = 0 if lived_s >= 300 else in_a_row + 1
        pause_s = pauses.take(now)
        assert pause_s == (min(60, 2.0 ** (in_a_row - 1)) if in_a_row else 0)
        now += pause_s
    assert pauses.taken == 1 + len(lives_s)


PROGRAM = """
import os, signal, sys
from moshi_agent import Engine, SessionConfig

if __name__ == "__main__":
    engine = Engine.load("tiny", device="cpu", capacity=1, process=True).start()
    session = engine.open_session(SessionConfig(seed=1))
    print(engine._backend.pid, flush=True)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("end", "exit_code"), [("kill", -signal.SIGKILL), ("exit", 0)])
def test_the_process_ends_with_the_one_that_started_it(end: str, exit_code: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program, end], capture_output=True, text=True, timeout=120)
    assert done.returncode == exit_code
    child = int(done.stdout)
    assert eventually(lambda: not _is_alive(child))
    assert done.stderr == ""  # nor does the resource tracker complain of anything left behind


def test_a_program_that_is_no_file_is_told_what_a_process_needs() -> None:
    program = "from moshi_agent import Engine\nEngine.load('tiny', process=True)"
    command = [sys.executable, "-"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ended with exit code 1 before it was loaded; a program" in last
    assert "not `python -`" in last and 'if __name__ == "__main__"' in last


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
