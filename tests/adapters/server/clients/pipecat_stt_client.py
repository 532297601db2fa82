"""Pipecat's own `OpenAIRealtimeSTTService` in a pipeline, with a recording for a microphone.

python pipecat_stt_client.py URL QUESTION
"""

from __future__ import annotations

import asyncio
import sys
import time

import numpy as np

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions

try:
    from loguru import logger
    from pipecat.frames.frames import (
        EndFrame,
        ErrorFrame,
        Frame,
        InputAudioRawFrame,
        InterimTranscriptionFrame,
        TranscriptionFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.services.openai.stt import OpenAIRealtimeSTTService
    from pipecat.workers.runner import WorkerRunner
except ImportError as error:
    print(f"Pipecat is not installed: {error}", file=sys.stderr)
    sys.exit(5)

CHUNK = 480  # 20 ms


class Ear(FrameProcessor):
    """Notes what comes out of the service."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.interim, self.errors = "", 0, []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.text += frame.text
        if isinstance(frame, InterimTranscriptionFrame):
            self.interim += 1
        if isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        await self.push_frame(frame, direction)


async def _listen(url: str, question: str) -> str:
    recogniser = OpenAIRealtimeSTTService(
        api_key="unused", base_url=f"{url.replace('http', 'ws', 1)}/v1/realtime", turn_detection=None
    )
    ear = Ear()
    worker = PipelineWorker(Pipeline([recogniser, ear]), params=PipelineParams(audio_in_sample_rate=24_000))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await _speak(worker, read_audio(find_question(question, sample_questions()).path), ear)
    await worker.queue_frame(EndFrame())
    await running
    assert not ear.errors, ear.errors
    assert ear.interim
    return ear.text


async def _speak(worker: PipelineWorker, samples: np.ndarray, ear: Ear) -> None:
    """In real time, until the words have come."""
    start = time.monotonic()
    for number in range(2000):
        if ear.text:
            return
        chunk = samples[number * CHUNK : (number + 1) * CHUNK]
        data = (np.concatenate([chunk, np.zeros(CHUNK - len(chunk))]) * 32767).astype("<i2").tobytes()
        await worker.queue_frame(InputAudioRawFrame(audio=data, sample_rate=24_000, num_channels=1))
        await asyncio.sleep(max(0.0, start + (number + 1) * 0.02 - time.monotonic()))


if __name__ == "__main__":
    logger.remove()
    print(asyncio.run(_listen(*sys.argv[1:3])))
