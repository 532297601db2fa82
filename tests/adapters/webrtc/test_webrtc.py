"""Calls over WebRTC: an aiortc peer over loopback talks to the built-in model."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiortc")

from hypothesis import given, settings
from hypothesis import strategies as st

from moshi_agent import Engine, EngineFull, InputError, SamplingConfig, SessionClosed, SessionConfig
from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from moshi_agent_adapters.webrtc import (
    ConnectionConfig,
    IceServer,
    MoshiConnection,
    OfferError,
    TooManyOffers,
)
from moshi_agent_adapters.webrtc.packet_order import set_prefetch, warn_once
from tests.adapters.webrtc.webrtc_peer import Caller

FREED_WITHIN_S = 5.0
CALM = SessionConfig(sampling=SamplingConfig(greedy=True))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load("tiny", capacity=2, admit_by_time=False, shared=False) as engine:
        yield engine


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 240))


def question(words: str) -> np.ndarray:
    """A sample question, [N] at 48 kHz, after a second of silence."""
    samples = read_audio(find_question(words, sample_questions()).path, 48_000)
    return np.concatenate([np.zeros(48_000, np.float32), samples])


async def connected(engine: Engine, config: ConnectionConfig | None = None) -> tuple[MoshiConnection, Caller]:
    connection, caller = MoshiConnection(engine, CALM, config), Caller()
    await caller.call(connection.answer)
    await caller.wait_for(lambda: caller.has("stats"))
    return connection, caller


async def freed_after_s(engine: Engine) -> float:
    """How long it takes until no row is taken."""
    started = time.monotonic()
    # The engine tells nobody that a row is free.
    while engine.capacity().live and time.monotonic() < started + 2 * FREED_WITHIN_S:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return time.monotonic() - started


@pytest.mark.real_time
def test_a_question_is_answered_in_words_and_sound(engine: Engine) -> None:
    async def talk() -> None:
        heard: list[str] = []
        connection = MoshiConnection(engine, CALM, on_event=lambda event: heard.append(type(event).__name__))
        caller = Caller()
        await caller.call(connection.answer)
        caller.microphone.play(question("capital of France"))
        await caller.wait_for(lambda: caller.has("bot_stopped"))
        assert caller.text == "That is the city of Paris."
        assert caller.loudness_dbfs > -35
        kinds = [event["type"] for event in caller.events if event["type"] in ("user_started", "bot_started")]
        assert kinds[:2] == ["user_started", "bot_started"]
        assert {"AudioChunk", "TextToken", "BotStopped"} <= set(heard)
        await caller.hang_up()
        await connection.wait_closed()

    run(talk())


def ends_in(log: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of the calls that have ended, without their times."""
    lines = [record.getMessage() for record in log.records]
    return [re.sub(r"after \d+\.\d s", "after N s", line) for line in lines if "call ended" in line]


@pytest.mark.real_time
def test_hanging_up_frees_the_row_and_is_logged(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moshi_agent.webrtc")

    async def talk() -> None:
        connection, caller = await connected(engine)
        assert engine.capacity().live == 1
        await caller.hang_up()
        assert await freed_after_s(engine) < FREED_WITHIN_S
        await connection.wait_closed()
        assert connection.session is not None
        key = connection.session.key
        assert ends_in(caplog) == [f"call ended after N s (webrtc, session {key}): the peer has left"]

    run(talk())


@pytest.mark.real_time
def test_a_peer_that_vanishes_without_a_word_frees_the_row(engine: Engine) -> None:
    async def talk() -> None:
        connection, caller = await connected(engine)
        ice = caller.transceiver.receiver.transport.transport._connection
        for protocol in ice._protocols:
            protocol.transport.close()  # its network is gone: nothing goes out, and nobody is told
        assert await freed_after_s(engine) < FREED_WITHIN_S
        await connection.wait_closed()
        await caller.hang_up()

    run(talk())


@pytest.mark.real_time
def test_a_quiet_peer_stays(engine: Engine) -> None:
    """No audio comes from a page that has no microphone yet; the data channel shows that it is there."""

    async def talk() -> None:
        connection, caller = await connected(engine)
        caller.transceiver.sender.replaceTrack(None)
        await asyncio.sleep(connection.config.silence_timeout_s + 1)
        assert not connection.is_closed
        await caller.hang_up()
        await connection.wait_closed()

    run(talk())


@pytest.mark.real_time
def test_what_a_stall_held_up_is_heard_or_left_out_and_the_call_goes_on(engine: Engine) -> None:
    """Ten seconds of packets come at once: they are late, and not ahead of time."""

    async def talk() -> None:
        connection, caller = await connected(engine)
        transport, held = caller.transceiver.sender.transport, list[bytes]()
        send = transport._send_rtp

        async def hold(packet: bytes) -> None:
            held.append(packet)

        transport._send_rtp = hold
        await asyncio.sleep(10)
        transport._send_rtp = send
        for packet in held:
            await send(packet)
        await caller.wait_for(lambda: caller.has("input_resumed"))
        caller.microphone.play(question("capital of France"))
        await caller.wait_for(lambda: "Paris" in caller.text)
        assert caller.has("input_skipped") and not connection.is_closed
        assert connection.caller_audio is not None and connection.caller_audio.refused_frames == 0
        await caller.hang_up()
        await connection.wait_closed()

    run(talk())


@pytest.mark.real_time
def test_closing_and_the_end_of_the_conversation_end_the_call(engine: Engine) -> None:
    async def talk() -> None:
        connection, caller = await connected(engine)
        assert connection.session is not None
        connection.session.close()
        await asyncio.wait_for(connection.wait_closed(), FREED_WITHIN_S)
        await caller.wait_for(lambda: caller.has("ended"))
        await caller.hang_up()

        connection, caller = await connected(engine)
        await connection.close()
        await connection.close()
        assert await freed_after_s(engine) < FREED_WITHIN_S
        with pytest.raises(SessionClosed):
            await connection.answer(caller.peer.localDescription.sdp)
        await caller.hang_up()

    run(talk())


@pytest.mark.real_time
def test_nobody_who_never_connects_keeps_anything(engine: Engine) -> None:
    async def talk() -> None:
        connection, caller = MoshiConnection(engine, CALM, ConnectionConfig(connect_timeout_s=0.5)), Caller()
        await connection.answer(await caller.offer())
        assert not engine.capacity().live
        await asyncio.wait_for(connection.wait_closed(), FREED_WITHIN_S)
        await caller.hang_up()

    run(talk())


@pytest.mark.real_time
def test_a_renewed_offer_goes_on_with_the_same_conversation(engine: Engine) -> None:
    async def talk() -> None:
        connection, caller = await connected(engine)
        session = connection.session
        await caller.accept(await connection.answer(await caller.offer()))
        for wrong in ("no offer", "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:7\r\n"):
            with pytest.raises(OfferError, match="accepted"):
                await connection.answer(wrong)
        seen = len(caller.events)
        caller.microphone.play(question("two plus two"))
        await caller.wait_for(lambda: caller.has("bot_stopped"))
        assert caller.text == "Two and two make four."
        assert len(caller.events) > seen and connection.session is session
        await caller.hang_up()
        await connection.wait_closed()

    run(talk())


@pytest.mark.real_time
def test_lost_packets_are_concealed_and_delay_nothing(engine: Engine) -> None:
    async def talk() -> None:
        connection, caller = await connected(engine)
        assert connection.caller_audio is not None
        transport = caller.transceiver.sender.transport
        send, sent = transport._send_rtp, 0

        async def lossy(data: bytes) -> None:
            nonlocal sent
            sent += 1
            if sent % 30:
                await send(data)

        transport._send_rtp = lossy
        caller.microphone.play(question("capital of France"))
        await caller.wait_for(lambda: caller.has("bot_stopped"))
        assert caller.loudness_dbfs > -35
        assert 0.04 <= connection.caller_audio.concealed_s <= 0.5
        # aiortc's own buffer would stall for longer than the engine waits.
        assert not caller.has("input_stalled")
        await caller.hang_up()
        await connection.wait_closed()

    run(talk())


@pytest.mark.real_time
def test_the_data_channel_takes_wishes_and_refuses_nonsense(engine: Engine) -> None:
    async def talk() -> None:
        connection, caller = await connected(engine)
        for nonsense in ("{", "[]", '"say"', '{"type": "say"}', '{"type": "fly"}', "x" * 20_000, b"\0\1"):
            errors = sum(event["type"] == "error" for event in caller.events)
            caller.channel.send(nonsense)
            await caller.wait_for(lambda n=errors: sum(e["type"] == "error" for e in caller.events) > n)
        caller.channel.send('{"type": "ping", "id": 7}')
        await caller.wait_for(lambda: {"type": "pong", "id": 7} in caller.events)
        caller.channel.send('{"type": "say", "text": "Good night, and sweet dreams."}')
        await caller.wait_for(lambda: caller.has("say_finished"))
        assert "sweet dreams" in caller.text
        await caller.hang_up()
        await connection.wait_closed()

    run(talk())


def test_a_full_engine_refuses(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moshi_agent.webrtc")

    async def talk() -> None:
        calls = [await connected(engine), await connected(engine)]
        late = Caller()
        with pytest.raises(EngineFull, match="no row is free"):
            await MoshiConnection(engine).answer(await late.offer())
        refused = "refused, no row is free: 2 conversations, capacity 2"
        assert ends_in(caplog) == [f"call ended after N s (webrtc): {refused}"]
        for connection, caller in calls:
            await caller.hang_up()
            await connection.wait_closed()
        await late.hang_up()
        assert await freed_after_s(engine) < FREED_WITHIN_S

    run(talk())


@pytest.mark.real_time
def test_renewals_without_end_are_refused_and_the_call_goes_on(engine: Engine) -> None:
    async def talk() -> None:
        connection, caller = await connected(engine, ConnectionConfig(offers_per_second=0.001))
        for _ in range(10):
            with pytest.raises(OfferError):
                await connection.answer("no offer")
        with pytest.raises(TooManyOffers, match="accepted"):
            await connection.answer(await caller.offer())
        caller.channel.send('{"type": "ping", "id": 7}')
        await caller.wait_for(lambda: {"type": "pong", "id": 7} in caller.events)
        await caller.hang_up()
        await connection.wait_closed()

    run(talk())


@pytest.mark.real_time
def test_a_flood_of_messages_ends_the_call(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moshi_agent.webrtc")

    async def talk() -> None:
        connection, caller = await connected(engine, ConnectionConfig(messages_per_second=1))
        for _ in range(200):
            caller.channel.send('{"type": "say", "text": "Good night."}')
        await asyncio.wait_for(connection.wait_closed(), FREED_WITHIN_S)
        assert ends_in(caplog)[0].endswith("too many messages on the data channel")
        assert await freed_after_s(engine) < FREED_WITHIN_S
        await caller.hang_up()

    run(talk())


def without_opus(sdp: str) -> str:
    kept = [line for line in sdp.splitlines() if not re.match(r"a=(rtpmap|fmtp):96", line)]
    return "\r\n".join(re.sub(r"^(m=audio .*) 96\b", r"\1", line) for line in kept) + "\r\n"


@pytest.mark.parametrize("spoil", [without_opus, lambda sdp: sdp.replace("m=audio", "m=video")])
def test_an_offer_without_opus_or_audio_is_refused(engine: Engine, spoil: Any) -> None:
    async def talk() -> None:
        connection, caller = MoshiConnection(engine), Caller()
        with pytest.raises(OfferError, match="accepted"):
            await connection.answer(spoil(await caller.offer()))
        await asyncio.wait_for(connection.wait_closed(), FREED_WITHIN_S)
        await caller.hang_up()

    run(talk())


@given(st.text() | st.text().map(lambda text: f"v=0\r\nm=audio 9 {text}"))
@settings(max_examples=40)
def test_garbage_is_refused_and_leaves_nothing(engine: Engine, garbage: str) -> None:
    async def talk() -> None:
        connection = MoshiConnection(engine)
        with pytest.raises(OfferError, match="accepted"):
            await connection.answer(garbage)
        await asyncio.wait_for(connection.wait_closed(), FREED_WITHIN_S)
        assert not engine.capacity().live

    run(talk())


@given(st.data())
@settings(max_examples=25)
def test_a_damaged_offer_is_answered_or_refused(engine: Engine, data: st.DataObject) -> None:
    async def talk() -> None:
        caller = Caller()
        lines = (await caller.offer()).splitlines()
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(lines) - 1))
            lines[at] = data.draw(st.sampled_from(["", lines[at][:-3], lines[at] * 2, "a=", "m=audio"]))
        connection = MoshiConnection(engine)
        with suppress(OfferError):
            assert "m=audio" in await connection.answer("\r\n".join(lines) + "\r\n")
        await asyncio.wait_for(connection.close(), FREED_WITHIN_S)
        await caller.hang_up()

    run(talk())


def test_a_session_that_cannot_be_live_is_refused(engine: Engine) -> None:
    async def make(config: SessionConfig) -> None:
        with pytest.raises(InputError, match="live"):
            MoshiConnection(engine, config)

    run(make(SessionConfig(live=False)))
    run(make(SessionConfig(output_sample_rate=48_000)))


def test_ice_servers_reach_both_sides() -> None:
    server = IceServer(urls=("turn:turn.example.org",), username="moshi", credential="secret")
    (ours,) = ConnectionConfig(ice_servers=(server,)).rtc_configuration().iceServers
    assert (ours.urls, ours.username, ours.credential) == (["turn:turn.example.org"], "moshi", "secret")
    assert server.to_json()["credential"] == "secret" and "secret" not in repr(server)
    assert ConnectionConfig().rtc_configuration().iceServers == []


def test_an_aiortc_with_other_insides_keeps_its_own_buffer(caplog: pytest.LogCaptureFixture) -> None:
    class Receiver:
        pass

    warn_once.cache_clear()
    receiver = Receiver()
    assert not set_prefetch(receiver, 0)  # type: ignore[arg-type]
    assert not set_prefetch(receiver, 0)  # type: ignore[arg-type]
    assert not vars(receiver) and caplog.text.count("jitter buffer") == 1
