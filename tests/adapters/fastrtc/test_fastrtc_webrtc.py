"""FastRTC's WebRTC: an offer is posted, questions are asked, and the words come as additional outputs."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastrtc", reason="needs FastRTC: pip install moshi-agent[fastrtc]")

from moshi_agent import Engine
from tests.adapters.fastrtc.fastrtc_calls import (
    MARKS,
    WebRtcCall,
    answers_within_s,
    live,
    understood,
    until,
)

pytestmark = MARKS
CONSENT_S = 60.0  # after which ICE has given up a peer of whom nothing comes


def test_two_callers_are_answered_and_when_one_hangs_up_the_other_goes_on(engine: Engine, url: str) -> None:
    async def calls() -> None:
        async with WebRtcCall(url, "one") as one, WebRtcCall(url, "two", trickles=True) as two:
            name = one.ask("What is your name?", "My name is Moshi")
            count = two.ask("Count to five.", "five")
            await asyncio.gather(name, count)
            assert "Moshi" not in two.words and "five" not in one.words, "each hears his own answer"
            assert min(one.peer.loudness_dbfs, two.peer.loudness_dbfs) > -30
            await live(engine, 2)
            await one.hang_up()
            await live(engine, 1)
            await two.ask("What is your name?", "My name is Moshi")
        await live(engine, 0)

    asyncio.run(calls())


def test_an_answer_is_understood_by_ear(engine: Engine, url: str) -> None:
    async def call() -> None:
        async with WebRtcCall(url, "one") as one:
            await one.ask("What is your name?", "talking model.")
            assert "tiny talking model" in understood(one.heard)

    asyncio.run(call())


def test_who_finds_no_row_is_told_and_costs_the_others_nothing(engine: Engine, url: str) -> None:
    async def calls() -> None:
        async with WebRtcCall(url, "one") as one, WebRtcCall(url, "two"), WebRtcCall(url, "three") as three:
            await until(lambda: three.peer.has("end_stream"))
            (end,) = (event for event in three.peer.events if event["type"] == "end_stream")
            assert end["data"] == "no row is free: 2 conversations, capacity 2"
            assert await answers_within_s(url) < 1.0
            await one.ask("What is your name?", "My name is Moshi")
        await live(engine, 0)

    asyncio.run(calls())


@pytest.mark.slow
def test_the_row_of_a_caller_whose_network_is_gone_comes_back(engine: Engine, url: str) -> None:
    async def calls() -> None:
        async with WebRtcCall(url, "gone") as gone, WebRtcCall(url, "there") as there:
            await until(lambda: gone.peer.heard and there.peer.heard)
            ice = gone.peer.transceiver.receiver.transport.transport._connection
            for protocol in ice._protocols:
                protocol.transport.close()
            await live(engine, 1, within_s=CONSENT_S)
            await there.ask("What is your name?", "My name is Moshi")

    asyncio.run(calls())
