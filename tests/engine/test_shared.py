"""Engines that a process shares: made once each, at the same time, and closed by the last who has them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import get_type_hints

import pytest

from moshi_agent import CheckpointError, ConfigError, Engine, EngineConfig, EngineUnhealthy
from moshi_agent.engine.config import EngineOptions
from moshi_agent.engine.shared import Shared

PATIENCE_S = 30
OPTIONS: EngineOptions = {"device": "cpu", "capacity": 1, "batch_wait_ms": 17.0}  # as nobody else has them


class Slow:
    """Makes a value while others do something: `begun` before it, and not until `may_end`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.begun, self.may_end, self.error, self.calls = threading.Event(), threading.Event(), error, 0

    def __call__(self) -> object:
        self.calls += 1
        self.begun.set()
        assert self.may_end.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return object()


def get_twice(shared: Shared[str, object], slow: Slow, callers: ThreadPoolExecutor) -> list[Future[object]]:
    """Two ask for the same; returns when both wait for it."""
    asked = [callers.submit(shared.get, "a", slow) for _ in range(2)]
    deadline = time.monotonic() + PATIENCE_S
    while not (slow.begun.is_set() and shared._entries["a"].users == 2) and time.monotonic() < deadline:
        time.sleep(0.001)
    return asked


def test_who_asks_for_the_same_waits_and_gets_the_same() -> None:
    shared, slow = Shared[str, object](), Slow()
    with ThreadPoolExecutor(2) as callers:
        asked = get_twice(shared, slow, callers)
        assert not any(one.done() for one in asked)
        slow.may_end.set()
        first, second = (one.result(PATIENCE_S) for one in asked)
    assert first is second and slow.calls == 1
    assert not shared.release("a", first)
    assert shared.release("a", first)
    assert shared.release("a", first)  # of a key that is free
    assert shared.get("a", slow) is not first and slow.calls == 2


def test_others_are_made_and_let_go_meanwhile() -> None:
    shared, slow = Shared[str, object](), Slow()
    quick = Slow()
    quick.may_end.set()
    with ThreadPoolExecutor(1) as callers:
        loading = callers.submit(shared.get, "a", slow)
        assert slow.begun.wait(PATIENCE_S)
        other = shared.get("b", quick)
        assert shared.release("b", other)
        assert shared.release("a", object())  # one of the same key that was never shared
        assert not loading.done()
        slow.may_end.set()
        assert shared.release("a", loading.result(PATIENCE_S))


@pytest.mark.parametrize(
    ("error", "told"), [(CheckpointError("damaged"), CheckpointError), (KeyboardInterrupt(), EngineUnhealthy)]
)
def test_a_failure_is_told_to_all_who_wait_and_frees_the_key(
    error: BaseException, told: type[Exception]
) -> None:
    """Ctrl-C reaches the one who loads; the other hears of it."""
    shared, slow = Shared[str, object](), Slow(error)
    with ThreadPoolExecutor(2) as callers:
        asked = get_twice(shared, slow, callers)
        slow.may_end.set()
        errors = [one.exception(PATIENCE_S) for one in asked]
    assert slow.calls == 1
    assert sorted(map(type, errors), key=str) == sorted([type(error), told], key=str)
    again = Slow()
    again.may_end.set()
    value = shared.get("a", again)
    assert shared.release("a", value)


def test_the_options_of_load_are_the_fields_of_the_configuration() -> None:
    wanted = get_type_hints(EngineConfig)
    del wanted["source"]
    assert get_type_hints(EngineOptions) == wanted


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="capasity"):
        Engine.load("tiny", capasity=2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="capacity=0; accepted: 1 or more"):
        Engine.load("tiny", capacity=0)


def test_an_engine_is_shared_until_the_last_has_closed_it() -> None:
    """Asked for by two at once, it is loaded once; after the end another one is loaded."""
    with ThreadPoolExecutor(2) as callers:
        one, other = callers.map(lambda source: Engine.load(source, **OPTIONS), ["tiny", "tiny"])
    assert one is other
    alone = Engine.load("tiny", shared=False, **OPTIONS)
    assert alone is not one
    alone.close()
    one.start()
    one.close()
    with one.session():
        pass
    other.close()
    with pytest.raises(EngineUnhealthy, match="closed"):
        one.session().open()
