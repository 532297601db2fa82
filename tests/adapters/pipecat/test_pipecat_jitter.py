"""The opt-in for shorter jitter buffers does what it says to the aiortc that is installed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from aiortc import rtcrtpreceiver
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket

from moshi_agent_adapters.pipecat import use_short_jitter_buffers


def new_buffer() -> JitterBuffer:
    """That of a new receiver."""
    receiver = rtcrtpreceiver.RTCRtpReceiver("audio", None)  # type: ignore[arg-type]
    return receiver._RTCRtpReceiver__jitter_buffer  # type: ignore[attr-defined]


def held_back(buffer: JitterBuffer, numbers: Iterable[int]) -> int:
    """How many packets of 20 ms the last frame that was given out is older than the last packet."""
    newest = 0
    for number in numbers:
        packet = RtpPacket(payload_type=96, sequence_number=number, timestamp=960 * number)
        packet._data = b"opus"
        _, frame = buffer.add(packet)
        if frame is not None:
            newest = frame.timestamp // 960
    return number - newest


@pytest.fixture
def receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts back what the opt-in replaces."""
    monkeypatch.setattr(rtcrtpreceiver, "JitterBuffer", rtcrtpreceiver.JitterBuffer)
    monkeypatch.setattr(rtcrtpreceiver.RTCRtpReceiver, "__init__", receiver_without_transport)


_init = rtcrtpreceiver.RTCRtpReceiver.__init__


def receiver_without_transport(self: rtcrtpreceiver.RTCRtpReceiver, kind: str, transport: object) -> None:
    class Closed:
        state = "new"

    _init(self, kind, Closed())  # type: ignore[arg-type]


@pytest.mark.usefixtures("receivers")
@pytest.mark.parametrize("packets", [1, 2, 4])
def test_it_holds_back_as_many_packets_as_it_is_told(packets: int) -> None:
    assert held_back(new_buffer(), range(30)) == 4  # as aiortc comes
    use_short_jitter_buffers(packets)
    assert held_back(new_buffer(), range(30)) == packets


@pytest.mark.usefixtures("receivers")
def test_a_lost_packet_costs_two_and_not_fourteen() -> None:
    one_lost = [*range(10), *range(11, 60)]
    assert held_back(new_buffer(), one_lost) == 14
    use_short_jitter_buffers(1)
    assert held_back(new_buffer(), one_lost) == 2


@pytest.mark.parametrize("packets", [-1, 16])
def test_other_numbers_are_refused(packets: int) -> None:
    with pytest.raises(ValueError, match="accepted: 0 to 15"):
        use_short_jitter_buffers(packets)
