"""A caller: an aiortc peer that says a recording and keeps what it hears."""

from __future__ import annotations

import asyncio
import json
import time
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from numpy.typing import NDArray

from moshi_agent_adapters.webrtc.input_track import mono

RATE_HZ = 48_000
PACKET_SAMPLES = 960


class Recording(MediaStreamTrack):
    """Says samples [N] of 48 kHz in real time, from `play` on, and silence else."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.packet = 0
        self.spoke_at: list[float] = []  # when packets that are not silent were captured to their end
        self._samples = np.zeros(0, np.float32)
        self._started: float | None = None

    def play(self, samples: NDArray[np.float32]) -> None:
        self._samples = np.concatenate([self._samples, samples])

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        self._started = now if self._started is None else self._started
        await asyncio.sleep(max(0.0, self._started + 0.02 * self.packet - now))
        pcm, self._samples = self._samples[:PACKET_SAMPLES], self._samples[PACKET_SAMPLES:]
        pcm = np.pad(pcm, (0, PACKET_SAMPLES - len(pcm)))
        frame = av.AudioFrame.from_ndarray((pcm * 32767).astype("<i2")[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
        frame.pts = self.packet * PACKET_SAMPLES
        self.packet += 1
        if pcm.any():
            self.spoke_at.append(time.monotonic())
        return frame


class Caller:
    """Calls, listens, and reads the events."""

    def __init__(self) -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.microphone = Recording()
        self.transceiver = self.peer.addTransceiver(self.microphone)
        self.channel = self.peer.createDataChannel("events")
        self.events: list[dict[str, Any]] = []
        self.heard: list[NDArray[np.float32]] = []  # as it is played, at 48 kHz
        self.heard_at: list[float] = []
        self._listening: asyncio.Task[None] | None = None
        self.channel.on("message", lambda message: self.events.append(json.loads(message)))
        self.peer.on("track", self._take_track)

    async def offer(self) -> str:
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return self.peer.localDescription.sdp

    async def accept(self, answer_sdp: str) -> None:
        await self.peer.setRemoteDescription(RTCSessionDescription(answer_sdp, "answer"))

    async def call(self, answer: Any) -> None:
        """Calls `answer`, an async function from offer to answer."""
        await self.accept(await answer(await self.offer()))

    def _take_track(self, track: MediaStreamTrack) -> None:
        self._listening = asyncio.ensure_future(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            self.heard.append(mono(frame))
            self.heard_at.append(time.monotonic())

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["type"] == "text_token").strip()

    @property
    def loudness_dbfs(self) -> float:
        """The loudest 20 ms heard."""
        levels = [float(np.sqrt(np.mean(pcm**2))) for pcm in self.heard]
        return 20 * np.log10(max([1e-9, *levels]))

    def has(self, kind: str) -> bool:
        return any(event["type"] == kind for event in self.events)

    async def wait_for(self, condition: Any, timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                kinds = [event["type"] for event in self.events]
                raise AssertionError(f"not within {timeout_s} s; text {self.text!r}, events {kinds[-20:]}")
            await asyncio.sleep(0.02)

    async def hang_up(self) -> None:
        await self.peer.close()
        if self._listening is not None:
            self._listening.cancel()
