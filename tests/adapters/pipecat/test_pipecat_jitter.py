"""The opt-in for shorter jitter buffers, on a connection of Pipecat's and the aiortc that is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")
pytest.importorskip("aiortc", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from aiortc import RTCPeerConnection, RTCRtpCodecParameters, RTCRtpReceiver
from aiortc.rtp import RtpPacket
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

from moshi_agent import ConfigError
from moshi_agent_adapters.pipecat import use_short_jitter_buffers
from moshi_agent_adapters.webrtc.packet_order import warn_once

BUFFER = "_RTCRtpReceiver__jitter_buffer"


async def connection_with(packets: int | None) -> tuple[SmallWebRTCConnection, RTCPeerConnection]:
    """A connection with an offer of sound and picture, that holds back so many packets."""
    caller = RTCPeerConnection()
    caller.addTransceiver("audio")
    caller.addTransceiver("video")
    await caller.setLocalDescription(await caller.createOffer())
    connection = SmallWebRTCConnection()
    await connection.initialize(caller.localDescription.sdp, caller.localDescription.type)
    if packets is not None:
        assert use_short_jitter_buffers(connection, packets)
    return connection, caller


async def held_back(receiver: RTCRtpReceiver, numbers: Iterable[int]) -> int:
    """How many packets of 20 ms the last frame that was decoded is older than the last packet."""
    newest = number = 0
    buffer: Any = getattr(receiver, BUFFER)
    add = buffer.add

    def note(packet: RtpPacket) -> Any:
        nonlocal newest
        packet._data = b"opus"
        pli, frame = add(packet)
        if frame is not None:
            newest = frame.timestamp // 960
        return pli, None  # nothing to decode

    buffer.add = note
    opus = RTCRtpCodecParameters(mimeType="audio/opus", clockRate=48_000, channels=2, payloadType=96)
    receiver._RTCRtpReceiver__codecs[96] = opus  # type: ignore[attr-defined]
    for number in numbers:
        packet = RtpPacket(payload_type=96, sequence_number=number, timestamp=960 * number, payload=b"opus")
        await receiver._handle_rtp_packet(packet, arrival_time_ms=20 * number)
    return number - newest


async def delay_of(packets: int | None, numbers: Iterable[int], times: int = 1) -> int:
    connection, caller = await connection_with(packets)
    for _ in range(times - 1):
        assert packets is not None and use_short_jitter_buffers(connection, packets)
    delay = await held_back(connection.pc.getTransceivers()[0].receiver, numbers)
    await connection.disconnect()
    await caller.close()
    return delay


@pytest.mark.parametrize("packets", [0, 1, 2, 4])
def test_it_holds_back_as_many_packets_as_it_is_told(packets: int) -> None:
    assert asyncio.run(delay_of(packets, range(30))) == packets
    assert asyncio.run(delay_of(packets, range(30), times=2)) == packets


def test_a_lost_packet_costs_nothing_for_good_and_not_fourteen() -> None:
    one_lost = [*range(10), *range(11, 60)]
    assert asyncio.run(delay_of(None, one_lost)) == 14  # as aiortc comes
    assert asyncio.run(delay_of(0, one_lost)) == 0


def test_other_connections_and_pictures_keep_their_buffers() -> None:
    async def buffers() -> list[str]:
        first, first_caller = await connection_with(0)
        second, second_caller = await connection_with(None)
        video = first.pc.getTransceivers()[1].receiver
        audio = second.pc.getTransceivers()[0].receiver
        for each in (first.disconnect(), second.disconnect(), first_caller.close(), second_caller.close()):
            await each
        return [type(getattr(receiver, BUFFER)).__name__ for receiver in (video, audio)]

    assert asyncio.run(buffers()) == ["JitterBuffer", "JitterBuffer"]


def test_a_connection_that_cannot_be_reached_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Connection:
        pass

    warn_once.cache_clear()
    connection: Any = Connection()
    assert not use_short_jitter_buffers(connection)
    assert not use_short_jitter_buffers(connection)
    assert caplog.text.count("no audio of Pipecat's connection can be reached") == 1


@pytest.mark.parametrize("packets", [-1, 9])
def test_other_numbers_are_refused(packets: int) -> None:
    connection: Any = None
    with pytest.raises(ConfigError, match="accepted: 0 to 8"):
        use_short_jitter_buffers(connection, packets)
