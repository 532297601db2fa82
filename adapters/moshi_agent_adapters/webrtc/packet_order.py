"""RTP packets in order, at once.

aiortc's jitter buffer holds four packets, and where one is lost it gives nothing for 300 ms and then holds
fourteen for the rest of the call: 200 ms more delay from the first loss on. Here a packet goes on as it
comes, and waits only where an earlier one is missing, for at most `patience` packets.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket

_log = logging.getLogger("moshi_agent.webrtc")
_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_HANDLER = "_handle_rtp_packet"
_SEQUENCE_NUMBERS = 1 << 16
_RESTART_AFTER = 100  # packets out of place: another stream has begun


class PacketOrder:
    """Puts packets in the order in which they were sent. Those that come too late are dropped.

    Args:
        prefetch: packets held back though nothing is missing.
        patience: packets that are held back while one before them is missing.
    """

    def __init__(self, prefetch: int = 0, patience: int = 3) -> None:
        self.prefetch = prefetch
        self._patience = max(prefetch, patience)
        self._next: int | None = None  # sequence number
        self._held: dict[int, RtpPacket] = {}

    def push(self, packet: RtpPacket) -> list[RtpPacket]:
        """The packets that may go on now."""
        if self._next is None:
            self._next = packet.sequence_number
        ahead = _distance(packet.sequence_number, self._next)
        if abs(ahead) >= _RESTART_AFTER:
            self._held.clear()
            self._next, ahead = packet.sequence_number, 0
        if ahead < 0:
            return []
        self._held[packet.sequence_number] = packet
        ready: list[RtpPacket] = []
        while len(self._held) > self.prefetch and (found := self._take()) is not None:
            ready.append(found)
        return ready

    def _take(self) -> RtpPacket | None:
        """The next packet, if it is there or no longer waited for."""
        assert self._next is not None
        if self._next not in self._held:
            if len(self._held) < self._patience:
                return None
            self._next = min(self._held, key=lambda number: _distance(number, self._next or 0))
        packet = self._held.pop(self._next)
        self._next = (self._next + 1) % _SEQUENCE_NUMBERS
        return packet


class _NoBuffer:
    """In the place of aiortc's jitter buffer: an audio packet is a whole frame, and comes in order."""

    def __init__(self, prefetch: int) -> None:
        self.order = PacketOrder(prefetch)

    def add(self, packet: Any) -> tuple[bool, JitterFrame]:
        return False, JitterFrame(data=packet._data, timestamp=packet.timestamp)


def set_prefetch(receiver: RTCRtpReceiver, prefetch: int) -> bool:
    """Makes an audio receiver hold back `prefetch` packets instead of aiortc's four.

    Reaches for private parts of aiortc. Returns whether they are as expected; if not, nothing is changed and
    a warning says so, once in a process. May be called again, with another number.
    """
    buffer = getattr(receiver, _BUFFER, None)
    if isinstance(buffer, _NoBuffer):
        if buffer.order.prefetch != prefetch:
            buffer.order = PacketOrder(prefetch)
        return True
    handle: Callable[..., Awaitable[None]] | None = getattr(receiver, _HANDLER, None)
    if handle is None or not hasattr(buffer, "add"):
        warn_once("this release of aiortc keeps its jitter buffer elsewhere; the delay stays as it is")
        return False
    ordered = _NoBuffer(prefetch)

    async def handle_in_order(packet: RtpPacket, **arrival: Any) -> None:
        for ready in ordered.order.push(packet):
            await handle(ready, **arrival)

    setattr(receiver, _BUFFER, ordered)
    setattr(receiver, _HANDLER, handle_in_order)
    return True


@cache
def warn_once(message: str) -> None:
    """Warns of what holds for every call alike."""
    _log.warning(message)


def _distance(number: int, origin: int) -> int:
    """How far a sequence number is ahead of another, -32768 to 32767."""
    half = _SEQUENCE_NUMBERS // 2
    return (number - origin + half) % _SEQUENCE_NUMBERS - half
