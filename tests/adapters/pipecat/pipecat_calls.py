"""Calls to a Pipecat pipeline in real time: a caller's voice going in, a loudspeaker at the other end.

The loudspeaker is the one thing that is not real: an output transport of Pipecat's, paced like a sound card,
that keeps what it is given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from moshi_agent.audio.resampling import StreamResampler
from moshi_agent.questions import find_question, sample_questions

PACKET_S = 0.02


def question(text: str, sample_rate_hz: int) -> NDArray[np.int16]:
    """A shipped question, [N] int16."""
    samples, rate_hz = sf.read(find_question(text, sample_questions()).path, dtype="float32")
    return np.round(StreamResampler(rate_hz, sample_rate_hz).push(samples) * 32767).astype(np.int16)


async def packets(pcm: NDArray[np.int16], sample_rate_hz: int) -> AsyncIterator[NDArray[np.int16]]:
    """Packets of 20 ms, each when its last sample has been spoken."""
    began, length = time.monotonic(), round(sample_rate_hz * PACKET_S)
    for number in range(len(pcm) // length):
        await asyncio.sleep(max(0.0, began + (number + 1) * PACKET_S - time.monotonic()))
        yield pcm[number * length : (number + 1) * length]


class Notes(BaseObserver):
    """Every frame that a processor has pushed, once."""

    def __init__(self) -> None:
        super().__init__()
        self._ids: set[int] = set()
        self.frames: list[Frame] = []

    async def on_push_frame(self, data: FramePushed) -> None:
        if data.frame.id not in self._ids:
            self._ids.add(data.frame.id)
            self.frames.append(data.frame)

    def of(self, *kinds: type[Frame]) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kinds)]


class Caller:
    """Speaks into a pipeline in real time."""

    def __init__(self, worker: PipelineWorker, notes: Notes, sample_rate_hz: int) -> None:
        self.worker = worker
        self.notes = notes
        self._rate_hz = sample_rate_hz

    async def speak(self, pcm: NDArray[np.int16]) -> None:
        async for packet in packets(pcm, self._rate_hz):
            await self.worker.queue_frame(InputAudioRawFrame(packet.tobytes(), self._rate_hz, 1))

    async def ask(self, text: str) -> None:
        await self.speak(question(text, self._rate_hz))

    async def be_silent(self, seconds: float) -> None:
        await self.speak(np.zeros(round(seconds * self._rate_hz), np.int16))

    async def hear(self, kind: type[Frame], times: int = 1) -> None:
        """Is silent until so many frames of this kind have been pushed, however slow the machine is."""
        for _ in range(600):
            if len(self.notes.of(kind)) >= times:
                return
            await self.be_silent(0.1)
        raise AssertionError(f"no {kind.__name__} in 60 s")


async def call_pipeline(
    processors: list[FrameProcessor],
    script: Callable[[Caller], Awaitable[None]],
    params: PipelineParams,
    *,
    enable_rtvi: bool = False,
    enable_tracing: bool = False,
) -> Notes:
    """Runs a pipeline from its start to the end of the script, or its own end, and what is left of it."""
    notes, started = Notes(), asyncio.Event()
    worker = PipelineWorker(
        Pipeline(processors),
        params=params,
        observers=[notes],
        enable_rtvi=enable_rtvi,
        enable_tracing=enable_tracing,
    )

    @worker.event_handler("on_pipeline_started")
    async def _(worker: object, frame: object) -> None:
        started.set()

    async def follow_the_script() -> None:
        await started.wait()
        try:
            await script(Caller(worker, notes, params.audio_in_sample_rate))
        finally:
            await worker.stop_when_done()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), follow_the_script())
    return notes


async def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Waits for something that the engine's thread does in its own time."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "in vain"
        await asyncio.sleep(0.02)


class Loudspeaker(BaseOutputTransport):
    """Plays in real time to nobody; keeps audio and messages."""

    def __init__(self) -> None:
        super().__init__(TransportParams(audio_out_enabled=True, audio_out_end_silence_secs=0))
        self.played = bytearray()
        self.messages: list[dict[str, Any]] = []
        self._free_at = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self.played += frame.audio
        self._free_at = max(self._free_at, time.monotonic()) + frame.num_frames / frame.sample_rate
        await asyncio.sleep(self._free_at - time.monotonic())
        return True

    async def send_message(
        self, frame: OutputTransportMessageFrame | OutputTransportMessageUrgentFrame
    ) -> None:
        self.messages.append(frame.message)
