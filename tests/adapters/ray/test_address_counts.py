"""The calls of each address in all replicas, without a cluster."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra `ray`: pip install moshi-agent[ray]")

from ray.exceptions import RayActorError

from moshi_agent_adapters.ray import address_counts as module
from moshi_agent_adapters.ray import board as board_module
from moshi_agent_adapters.ray.address_counts import BoardCounts
from moshi_agent_adapters.ray.board import Board
from moshi_agent_adapters.ray.report import Report


def report(replica: str, **calls: int) -> Report:
    fields: dict[str, Any] = {"live": 0, "free": 1, "is_healthy": True, "is_draining": False}
    return Report(replica=replica, metrics=b"", calls=calls, **fields)


def admitted(board: Board, replica: str, network: str = "a", at_once: int | None = 3) -> bool:
    return board.admit(replica, network, at_once, 100, True) is None


def test_calls_of_all_replicas_count() -> None:
    board = Board()
    for replica in ("one", "two"):
        board.report(report(replica))
    assert [admitted(board, replica) for replica in ("one", "two", "two", "one")] == [True] * 3 + [False]
    assert admitted(board, "one", "b") and admitted(board, "one", at_once=None)
    board.leave("one", "a")
    board.leave("two", "a")
    assert admitted(board, "two") and not admitted(board, "one")


def test_a_report_sets_right_what_was_lost_on_the_way() -> None:
    board = Board()
    board.report(report("one", a=3))
    assert not admitted(board, "two"), "a board that was begun again has heard of the calls"
    board.report(report("one"))
    assert admitted(board, "two")


def test_a_replica_that_is_gone_has_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(board_module.time, "monotonic", lambda: now[0])
    board = Board()
    board.report(report("one", a=3))
    assert not admitted(board, "two")
    now[0] += 4
    assert admitted(board, "two"), "who was cut off may call again"
    board.report(report("one", a=3))  # it was only busy
    assert not admitted(board, "two")


def test_beginnings_count_whichever_replica_has_them() -> None:
    board = Board()
    assert [board.admit(str(n % 2), "a", 100, 5, False) is None for n in range(6)] == [True] * 5 + [False]


def test_calls_on_the_way_in_become_no_more_calls_than_may_and_begin_once() -> None:
    async def call() -> None:
        board = Remote(Board())
        one, two = (BoardCounts(board, name, 1, 2) for name in ("one", "two"))
        for name in ("one", "two"):
            board.board.report(report(name))
        assert await one.begin("a") is None and await two.begin("a") is None
        assert await one.connect("a", moves=False) is None, "it has begun already: 2 a minute may"
        assert "1 call at once" in (await two.connect("a", moves=False) or "")
        assert await two.connect("a", moves=True) is None
        one.leave("a")
        assert "1 call at once" in (await one.connect("a", moves=False) or "")
        two.leave("a")
        assert await one.connect("a", moves=False) is None

    asyncio.run(call())


class Remote:
    """A board in this process, asked as an actor is."""

    def __init__(self, board: Board) -> None:
        self.board, self.fault = board, ""

    def __getattr__(self, name: str) -> Any:
        remote = self

        class Method:
            def remote(self, *arguments: object) -> Any:
                async def answer() -> Any:
                    if remote.fault == "dead":
                        raise RayActorError
                    if remote.fault == "silent":
                        await asyncio.sleep(60)
                    return found

                found = None if remote.fault else getattr(remote.board, name)(*arguments)
                return answer() if name == "admit" else None

        return Method()


@pytest.mark.parametrize("fault", ["dead", "silent"])
def test_where_the_board_does_not_answer_calls_are_taken(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.05)
    remote = Remote(Board())
    one, two = (BoardCounts(remote, name, 1, 100) for name in ("one", "two"))
    for name in ("one", "two"):
        remote.board.report(report(name))

    async def call() -> None:
        assert await one.enter("a") is None
        assert "1 call at once" in (await two.enter("a") or "")
        remote.fault = fault
        with caplog.at_level(logging.WARNING, "moshi_agent.ray"):
            for _ in range(3):
                assert await two.enter("a") is None
            assert await two.begin("a") is None
        assert len(caplog.records) == 1 and "each replica alone" in caplog.text
        remote.fault = ""
        with caplog.at_level(logging.WARNING, "moshi_agent.ray"):
            assert await two.enter("a") is not None
        assert len(caplog.records) == 2 and "again" in caplog.text
        one.leave("a")
        assert await two.connect("b", moves=False) is None
        assert await one.enter("a") is None and await one.enter("b") is not None

    asyncio.run(call())
