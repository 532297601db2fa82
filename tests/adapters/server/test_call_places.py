"""Limits of an address that hold in several processes together."""

from __future__ import annotations

import asyncio

import pytest

from moshi_agent_adapters.server.call_places import CallPlaces
from moshi_agent_adapters.server.limits import AddressLimits, Starts, TooMany, check_room


class Together:
    """Counts the calls of processes that are all here."""

    def __init__(self, at_once: int, starts_per_minute: int = 100) -> None:
        self.calls: list[str] = []
        self._at_once, self._per_minute, self._starts = at_once, starts_per_minute, Starts()

    async def begin(self, network: str) -> str | None:
        await asyncio.sleep(0)
        try:
            check_room(self.calls.count(network), self._at_once)
            self._starts.begin(network, self._per_minute, 0.0)
        except TooMany as error:
            return str(error)
        return None

    async def enter(self, network: str) -> str | None:
        return await self.begin(network) or await self.connect(network, moves=True)

    async def connect(self, network: str, moves: bool) -> str | None:
        try:
            if not moves:
                check_room(self.calls.count(network), self._at_once)
        except TooMany as error:
            return str(error)
        self.calls.append(network)
        return None

    def leave(self, network: str) -> None:
        self.calls.remove(network)


def places(everywhere: Together | None, at_once: int = 3) -> CallPlaces:
    here = CallPlaces(AddressLimits(at_once, 100))
    here.everywhere = everywhere
    return here


def test_calls_elsewhere_count() -> None:
    async def call() -> None:
        together = Together(at_once=3)
        here, there = places(together), places(together)
        await here.enter("2001:db8::1", 0)
        await there.enter("2001:db8::2", 0)
        await there.enter("2001:db8::3", 0)
        for one in (here, there):
            with pytest.raises(TooMany, match="3 calls at once"):
                await one.enter("2001:db8::4", 0)
            with pytest.raises(TooMany, match="3 calls at once"):
                await one.begin("2001:db8::4", 0)
        await here.enter("192.0.2.1", 0)
        assert (here.live, there.live) == (2, 2), "who was refused is no call"
        there.leave("2001:db8::2")
        await here.enter("2001:db8::4", 0)
        assert here.by_network == {"2001:db8::/64": 2, "192.0.2.1": 1}

    asyncio.run(call())


def test_of_calls_on_the_way_in_everywhere_no_more_become_calls_than_may() -> None:
    async def call() -> None:
        together = Together(at_once=1)
        here, there = places(together), places(together)
        for one in (here, there):
            await one.begin("a", 0)
        await here.connect("a")
        with pytest.raises(TooMany, match="1 call at once"):
            await there.connect("a")
        assert (here.live, there.live, together.calls) == (1, 0, ["a"])
        await there.connect("a", moves=True)  # it is counted here still
        here.leave("a")
        there.leave("a")
        assert (here.live, there.live, together.calls) == (0, 0, [])

    asyncio.run(call())


def test_beginnings_elsewhere_count() -> None:
    async def call() -> None:
        together = Together(at_once=10, starts_per_minute=2)
        here, there = places(together), places(together)
        await here.begin("a", 0)
        await there.begin("a", 0)
        with pytest.raises(TooMany, match="2 calls a minute"):
            await here.enter("a", 0)
        await here.begin("a", 0, moves=True)  # it was counted when it began
        await here.connect("a")
        assert together.calls == ["a"]

    asyncio.run(call())


def test_what_is_refused_here_is_not_asked_elsewhere() -> None:
    async def call() -> None:
        together = Together(at_once=10)
        here = places(together, at_once=1)
        await here.enter("a", 0)
        with pytest.raises(TooMany, match="1 call at once"):
            await here.enter("a", 0)
        assert together.calls == ["a"]

    asyncio.run(call())


def test_who_leaves_while_others_are_asked_leaves_nothing_behind() -> None:
    class Slow(Together):
        async def connect(self, network: str, moves: bool) -> str | None:
            await asyncio.sleep(60)
            return None

    async def call() -> None:
        here = places(Slow(at_once=10))
        for asking in (here.enter("a", 0), here.connect("a")):
            entering = asyncio.create_task(asking)
            for _ in range(3):
                await asyncio.sleep(0)
            assert here.live == 1
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
            assert here.live == 0

    asyncio.run(call())


def test_alone_it_counts_alone() -> None:
    async def call() -> None:
        here = places(None, at_once=1)
        await here.enter("a", 0)
        with pytest.raises(TooMany):
            await here.enter("a", 0)
        here.leave("a")
        await here.begin("a", 0)
        await here.connect("a")
        assert here.live == 1

    asyncio.run(call())
