"""RTP packets put in order: what is there goes on at once, what is missing is not waited for long."""

from __future__ import annotations

import pytest

pytest.importorskip("aiortc")

from aiortc.rtp import RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent_adapters.webrtc.packet_order import PacketOrder


def packet(number: int) -> RtpPacket:
    return RtpPacket(sequence_number=number % (1 << 16), timestamp=960 * number % (1 << 32))


def passed(order: PacketOrder, numbers: list[int]) -> list[list[int]]:
    return [[p.sequence_number for p in order.push(packet(number))] for number in numbers]


def test_in_order_packets_go_on_at_once() -> None:
    assert passed(PacketOrder(), [5, 6, 7]) == [[5], [6], [7]]


def test_a_prefetch_holds_packets_back() -> None:
    assert passed(PacketOrder(prefetch=1), [5, 6, 7]) == [[], [5], [6]]


def test_a_packet_that_was_overtaken_is_put_back_in_its_place() -> None:
    assert passed(PacketOrder(), [5, 7, 6, 8]) == [[5], [], [6, 7], [8]]


def test_a_lost_packet_is_waited_for_and_then_left_out_for_good() -> None:
    assert passed(PacketOrder(patience=3), [5, 7, 8, 9, 10, 6]) == [[5], [], [], [7, 8, 9], [10], []]


def test_sequence_numbers_begin_again() -> None:
    assert passed(PacketOrder(), [65_534, 65_535, 65_537, 65_536]) == [[65_534], [65_535], [], [0, 1]]


def test_another_stream_begins_anew() -> None:
    assert passed(PacketOrder(), [5, 6, 20_000, 20_001, 5]) == [[5], [6], [20_000], [20_001], [5]]


@given(
    st.integers(0, 1 << 16),
    st.lists(st.sampled_from(["sent", "lost", "late"]), max_size=60),
    st.integers(0, 3),
)
def test_whatever_the_network_does_order_is_kept_and_little_is_held(
    first: int, fates: list[str], prefetch: int
) -> None:
    arrivals: list[int] = []
    delayed: list[int] = []
    for number, fate in enumerate(fates, first):
        if fate == "late":
            delayed.append(number)
        elif fate == "sent":
            arrivals += [number, *delayed]
            delayed.clear()
    order = PacketOrder(prefetch)
    out: list[int] = []
    for number in arrivals:
        out += [p.timestamp // 960 for p in order.push(packet(number))]
        assert len(order._held) <= max(prefetch, 3)
    assert out == sorted(set(out))
    assert set(out) <= set(arrivals)
