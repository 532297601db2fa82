"""Mouth to ear over WebRTC on one machine, without what the model itself takes.

An aiortc peer says clicks, and a stand-in for the engine answers each frame with the frame, at once. Its
frame of 80 ms is taken off: what is left is packets, Opus, network, buffers and pacing of both ways, which
comes on top of the engine's own frame, acoustic delay and step.

    PYTHONPATH=. python tests/benchmarks/webrtc_latency.py
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from moshi_agent import AudioChunk, SessionConfig
from moshi_agent.audio.framing import FRAME_SAMPLES, Framer
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent_adapters.webrtc import ConnectionConfig, MoshiConnection
from moshi_agent_adapters.webrtc.packet_order import set_prefetch
from tests.adapters.webrtc.webrtc_peer import PACKET_SAMPLES, RATE_HZ, Caller

CLICK_LEVEL = 0.1  # of what is heard, to be one
CLICK_EVERY_S = 0.437  # at every place within a frame, as time goes on
CLICK = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(PACKET_SAMPLES) / RATE_HZ).astype(np.float32)
FRAME_MS = 1000 * FRAME_SAMPLES / 24_000  # a sample waits for its frame's end, or its turn in the answer


class EchoSession:
    """As a session of an engine without a model: what was heard is said, when the frame is whole."""

    backlog_s = 0.0

    def __init__(self) -> None:
        self._resampler = StreamResampler(RATE_HZ, 24_000)
        self._framer = Framer(FRAME_SAMPLES)
        self._chunks: asyncio.Queue[AudioChunk | None] = asyncio.Queue()

    async def open_async(self) -> EchoSession:
        return self

    def push(self, pcm: np.ndarray, sample_rate: int) -> None:
        for frame in self._framer.push(self._resampler.push(pcm)):
            self._chunks.put_nowait(AudioChunk(frame=0, media_s=0, wall_s=0, pcm=frame, sample_rate=24_000))

    def close(self) -> None:
        self._chunks.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[AudioChunk]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk


class EchoEngine:
    """As much of an engine as a connection asks for."""

    @dataclass(frozen=True)
    class _Figures:
        free: int = 1
        live: int = 0
        rows: int = 1
        live_sessions: int = 1
        p50: float = 0.0
        admit_by_time: bool = False

        @property
        def step_s(self) -> EchoEngine._Figures:
            return self

        latency_s = step_s

    config = _Figures()

    def session(self, config: SessionConfig) -> EchoSession:
        return EchoSession()

    def capacity(self) -> _Figures:
        return self._Figures()

    metrics = capacity


async def measure(ours: int | None, callers: int | None, seconds: float) -> list[float]:
    """Milliseconds from mouth to ear of each click, less the engine's frame.

    Args:
        ours: packets that the server holds back; None is aiortc's own buffer.
        callers: the same of the caller.
        seconds: how long to go on.
    """
    engine: Any = EchoEngine()
    connection, caller = MoshiConnection(engine, config=ConnectionConfig(prefetch=ours)), Caller()
    if callers is not None:
        assert set_prefetch(caller.transceiver.receiver, callers)
    await caller.call(connection.answer)
    await caller.wait_for(lambda: caller.has("stats"))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        caller.microphone.play(CLICK)
        await asyncio.sleep(CLICK_EVERY_S)
    await asyncio.sleep(1.0)
    # A packet leaves the microphone when its last sample is captured.
    said = [at - PACKET_SAMPLES / RATE_HZ for at in caller.microphone.spoke_at]
    heard = _clicks_heard(caller)
    await caller.hang_up()
    await connection.wait_closed()
    return [1000 * (min(at for at in heard if at > click) - click) - FRAME_MS for click in said[:-1]]


def _clicks_heard(caller: Caller) -> list[float]:
    """When the first sample of each click came out of the loudspeaker."""
    heard: list[float] = []
    for at, pcm in zip(caller.heard_at, caller.heard, strict=True):
        loud = np.flatnonzero(np.abs(pcm) > CLICK_LEVEL)
        if len(loud) and (not heard or at - heard[-1] > CLICK_EVERY_S / 2):
            heard.append(at + loud[0] / RATE_HZ)
    return heard


def main() -> None:
    """Prints a line for each way to buffer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    ways = {"aiortc's own at both ends": (None, None), "prefetch 1 at both ends": (1, 1)}
    ways |= {"ours at the server": (0, None), "ours at both ends": (0, 0)}
    for name, (ours, callers) in ways.items():
        delays = np.array(asyncio.run(measure(ours, callers, seconds)))
        p50, p95 = np.percentile(delays, [50, 95])
        print(
            f"{name:26} mean {delays.mean():6.1f} ms   p50 {p50:6.1f}   p95 {p95:6.1f}   {len(delays)} clicks"
        )


if __name__ == "__main__":
    main()
