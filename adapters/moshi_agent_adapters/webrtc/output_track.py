"""What the bot says as an RTP stream: Opus packets of 20 ms, each sent when it is due and none later."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from numpy.typing import NDArray

from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Framer
from moshi_agent.events import AudioChunk

PACKET_S = 0.02
_PACKET_SAMPLES = round(PACKET_S * SAMPLE_RATE_HZ)
_LONGEST_QUEUE = 50  # packets: nobody takes them while there is no connection
_RTP_TIME_BASE = Fraction(1, 48_000)  # of Opus, whatever its sample rate
_RTP_TICKS = round(PACKET_S * 48_000)
_COMPLEXITY = 5  # of the Opus encoder, 0 to 10: half the time of the best


class _Due(NamedTuple):
    at: float
    pcm: NDArray[np.float32]  # [480]


class Pacer:
    """Cuts chunks into packets and says when each is due.

    The chunk's first packet is due when the chunk comes, the next ones 20 ms after one another, and all of
    them when the next chunk comes: a player that runs late gets what it has missed at once, and nothing stays
    here. Its clock is that of the chunks, which is the engine's.
    """

    def __init__(self) -> None:
        self.dropped_packets = 0
        self._framer = Framer(_PACKET_SAMPLES)
        self._queue: deque[_Due] = deque()

    def push(self, pcm: NDArray[np.float32], now: float) -> None:
        """Takes a chunk [N] at 24 kHz."""
        self._queue = deque(due._replace(at=min(due.at, now)) for due in self._queue)
        for position, packet in enumerate(self._framer.push(pcm)):
            self._queue.append(_Due(now + position * PACKET_S, packet))
        while len(self._queue) > _LONGEST_QUEUE:
            self._queue.popleft()
            self.dropped_packets += 1

    @property
    def due_at(self) -> float | None:
        """When the next packet is due; None while there is none."""
        return self._queue[0].at if self._queue else None

    def pop(self) -> NDArray[np.float32]:
        """The next packet [480]."""
        return self._queue.popleft().pcm

    @property
    def queued_s(self) -> float:
        """Seconds of sound that wait for their time."""
        return len(self._queue) * PACKET_S


class OpusStream:
    """Encodes packets [480] of mono float32 at 24 kHz, with redundancy against the loss of single ones."""

    def __init__(self, bit_rate: int, expected_loss_percent: int) -> None:
        self._codec = av.CodecContext.create("libopus", "w")
        self._codec.sample_rate = SAMPLE_RATE_HZ
        self._codec.format = "s16"
        self._codec.layout = "mono"
        self._codec.bit_rate = bit_rate
        self._codec.time_base = Fraction(1, SAMPLE_RATE_HZ)
        self._codec.options = {
            "application": "voip",
            "frame_duration": "20",
            "fec": "1",
            "packet_loss": str(expected_loss_percent),
            "compression_level": str(_COMPLEXITY),
        }
        self._count = 0

    def encode(self, pcm: NDArray[np.float32]) -> av.Packet[Any]:
        """One packet, with its RTP time."""
        samples = (pcm.clip(-1, 1) * 32767).round().astype("<i2")[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        frame.pts = self._count * _PACKET_SAMPLES
        (encoded,) = self._codec.encode(frame)
        packet = av.Packet(bytes(encoded))
        packet.pts, packet.time_base = self._count * _RTP_TICKS, _RTP_TIME_BASE
        self._count += 1
        return packet


class OutputTrack(MediaStreamTrack):
    """The audio track to the caller. Belongs to one event loop."""

    kind = "audio"

    def __init__(
        self, bit_rate: int, expected_loss_percent: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.pacer = Pacer()
        self._opus = OpusStream(bit_rate, expected_loss_percent)
        self._clock = clock
        self._changed = asyncio.Event()

    def push(self, chunk: AudioChunk) -> None:
        """Sends a chunk at 24 kHz, from now on."""
        self.pacer.push(chunk.pcm, self._clock())
        self._changed.set()

    async def recv(self) -> av.Packet[Any]:
        """The next packet, when it is due. aiortc calls it."""
        await self._until_due()
        pcm = self.pacer.pop()
        return await asyncio.get_running_loop().run_in_executor(None, self._opus.encode, pcm)

    async def _until_due(self) -> None:
        while self.readyState == "live":
            self._changed.clear()
            due_at = self.pacer.due_at
            wait_s = None if due_at is None else due_at - self._clock()
            if wait_s is not None and wait_s <= 0:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), wait_s)
            except TimeoutError:
                continue
        raise MediaStreamError

    def stop(self) -> None:
        """Ends the stream."""
        super().stop()
        self._changed.set()
