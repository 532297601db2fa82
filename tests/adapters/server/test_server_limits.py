"""Limits of an address and of a call, on a clock of the test's."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent_adapters.allowance import Allowance
from moshi_agent_adapters.networks import network_of
from moshi_agent_adapters.server import ServerConfig
from moshi_agent_adapters.server.idle_calls import IdleCalls
from moshi_agent_adapters.server.limits import (
    AddressLimits,
    ConnectionLimits,
    ConnectionPlace,
    Pace,
    TooMany,
)


def test_an_address_has_so_many_calls_at_once() -> None:
    limits = AddressLimits(at_once=2, starts_per_minute=100)
    limits.enter("a", 0)
    limits.enter("a", 0)
    with pytest.raises(TooMany, match="2 calls at once"):
        limits.enter("a", 0)
    limits.enter("b", 0)
    limits.leave("a")
    limits.enter("a", 0)
    assert limits.live == 3


def test_an_address_begins_so_many_calls_a_minute() -> None:
    limits = AddressLimits(at_once=10, starts_per_minute=3)
    for now in (0.0, 1.0, 2.0):
        limits.enter("a", now)
        limits.leave("a")
    with pytest.raises(TooMany, match="3 calls a minute"):
        limits.enter("a", 59.0)
    limits.enter("b", 59.0)
    limits.enter("a", 60.5)
    assert limits.live == 2


def test_by_default_one_address_has_half_of_the_calls() -> None:
    assert [ServerConfig().calls_of_one_address(capacity) for capacity in (1, 2, 8, 9)] == [1, 1, 4, 4]
    assert ServerConfig(calls_per_address=3).calls_of_one_address(1) == 3


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_addresses_of_one_ipv6_network_are_one(address: str, network: str) -> None:
    assert network_of(address) == network


def test_the_calls_of_an_ipv6_network_are_counted_together() -> None:
    limits = AddressLimits(at_once=2, starts_per_minute=100)
    limits.enter("2001:db8::1", 0)
    limits.enter("2001:db8::2", 0)
    with pytest.raises(TooMany):
        limits.enter("2001:db8::3", 0)
    limits.enter("2001:db8:0:1::1", 0)
    for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"):
        limits.leave(address)
    assert limits.live == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["enter", "prove", "leave"])), max_size=60))
def test_connections_leave_nothing_behind(happens: list[tuple[str, str]]) -> None:
    limits = ConnectionLimits(at_once=5, per_address=2)
    places: list[tuple[str, ConnectionPlace]] = []
    for address, what in happens:
        if what == "enter":
            place = limits.enter(address, 0.0)
            places += [(address, place)] if place is not None else []
        for other, place in places:
            if what == "prove" and other == address:
                place.prove()
        if what == "leave":
            for _, place in [one for one in places if one[0] == address]:
                place.leave()
                place.leave()
            places = [one for one in places if one[0] != address]
        assert limits.live == len(places) <= 5
    for _, place in places:
        place.leave()
    assert limits.live == 0
    assert not vars(limits)["_strangers"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60))
def test_whoever_has_left_leaves_nothing_behind(calls: list[tuple[str, float]]) -> None:
    limits, now = AddressLimits(at_once=3, starts_per_minute=5), 0.0
    inside: list[str] = []
    for address, wait in calls:
        now += wait
        try:
            limits.enter(address, now)
            inside.append(address)
        except TooMany:
            pass
        assert limits.live == len(inside)
        assert all(inside.count(each) <= 3 for each in "abc")
    for address in inside:
        limits.leave(address)
    assert limits.live == 0
    limits.enter("x", now + 61)
    assert set(vars(vars(limits)["_starts"])["_begun"]) == {"x"}


def test_real_time_is_within_the_pace_for_ever() -> None:
    pace = Pace(ahead_s=2.0)
    assert all(pace.admits(0.08, 0.08 * n) for n in range(100_000))


def test_ten_times_real_time_is_not() -> None:
    pace = Pace(ahead_s=2.0)
    admitted = [pace.admits(0.08, 0.008 * n) for n in range(100)]
    assert 20 <= admitted.index(False) <= 30


def test_what_a_stall_held_up_is_not_ahead() -> None:
    pace = Pace(ahead_s=2.0)
    assert pace.admits(1.0, 0.0)
    assert pace.admits(100.0, 100.0)
    assert not pace.admits(2.0, 100.0)


def test_an_allowance_comes_back_with_time_up_to_its_size() -> None:
    allowance = Allowance(per_second=10, size=30)
    assert all(allowance.spend(1, 0.0) for _ in range(30))
    assert not allowance.spend(1, 0.0)
    assert allowance.spend(5, 0.5) and not allowance.spend(1, 0.5)
    assert all(allowance.spend(1, 1000.0) for _ in range(30)) and not allowance.spend(1, 1000.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 5)), max_size=200))
def test_no_more_is_spent_than_there_was_and_came_back(spending: list[tuple[float, float]]) -> None:
    allowance, now, spent = Allowance(per_second=2, size=3), 0.0, 0.0
    for passed, cost in spending:
        now += passed
        spent += cost * allowance.spend(cost, now)
        assert spent <= 3 + 2 * now + 1e-6


def test_an_address_with_several_silent_calls_gives_up_the_longest_silent() -> None:
    async def scene() -> None:
        calls = IdleCalls(idle_s=30)
        first, second, alone = calls.enter("a", 0), calls.enter("a", 1), calls.enter("b", 0)
        assert not await calls.make_room(20)
        first.heard_at = 15.0
        room = asyncio.create_task(calls.make_room(60))
        await asyncio.sleep(0)
        assert second.given_up.is_set() and not first.given_up.is_set() and not alone.given_up.is_set()
        calls.leave(second)
        assert await room
        assert not await calls.make_room(60)  # nobody else has two

    asyncio.run(scene())
