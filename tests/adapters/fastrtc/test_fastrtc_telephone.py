"""FastRTC's telephone: Twilio's Media Streams over `/telephone/handler`."""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("fastrtc", reason="needs FastRTC: pip install moshi-agent[fastrtc]")

from moshi_agent import Engine
from tests.adapters.fastrtc.fastrtc_calls import (
    MARKS,
    TelephoneCall,
    answers_within_s,
    live,
    understood,
    until,
)

pytestmark = MARKS


def test_two_callers_are_answered_and_when_one_hangs_up_the_other_goes_on(engine: Engine, url: str) -> None:
    async def calls() -> None:
        async with TelephoneCall(url) as one, TelephoneCall(url) as two:
            await asyncio.gather(one.ask("What is your name?"), two.ask("Count to five."))
            await live(engine, 2)
            await one.hang_up()
            await live(engine, 1)
            await two.ask("What is your name?")
        await live(engine, 0)

    asyncio.run(calls())


def test_sound_comes_without_holes_and_is_understood_by_ear(engine: Engine, url: str) -> None:
    async def call() -> None:
        async with TelephoneCall(url) as one:
            began = time.monotonic()
            await one.ask("What is your name?")
            heard, lasted_s = one.heard_from(), time.monotonic() - began
            assert len(heard) / 24_000 > lasted_s - 1.0
            assert "tiny talking model" in understood(heard)

    asyncio.run(call())


def test_a_caller_whose_provider_is_gone_without_a_stop_frees_his_row(engine: Engine, url: str) -> None:
    async def call() -> None:
        async with TelephoneCall(url) as one:
            await until(lambda: one.heard)
            await live(engine, 1)
            one.socket.transport.abort()
            await live(engine, 0)

    asyncio.run(call())


def test_who_finds_no_row_is_hung_up_on_and_costs_the_others_nothing(engine: Engine, url: str) -> None:
    async def calls() -> None:
        async with TelephoneCall(url) as one, TelephoneCall(url) as two:
            await until(lambda: one.heard and two.heard)
            async with TelephoneCall(url) as three:
                await until(lambda: three.is_over, timeout_s=10.0)
                assert not three.heard
            assert await answers_within_s(url) < 1.0
            await one.ask("What is your name?")
        await live(engine, 0)

    asyncio.run(calls())
