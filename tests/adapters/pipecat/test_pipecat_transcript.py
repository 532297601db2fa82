"""The transcript of a call in a file, on a disk that is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from loguru import logger
from pipecat.frames.frames import Frame, LLMFullResponseEndFrame, LLMFullResponseStartFrame, TTSTextFrame
from pipecat.tests.utils import run_test
from pipecat.utils.text.base_text_aggregator import TextType

from moshi_agent_adapters.pipecat import TranscriptFile

TURN: list[Frame] = [
    LLMFullResponseStartFrame(),
    TTSTextFrame("Hello.", text_type=TextType.SENTENCE),
    LLMFullResponseEndFrame(),
]


def test_a_full_disk_stops_no_frame_and_is_said_once() -> None:
    told: list[str] = []
    sink = logger.add(lambda message: told.append(message.record["message"]), level="ERROR")
    expected = [type(frame) for frame in TURN] * 3
    full = TranscriptFile(Path("/dev/full"))
    try:
        asyncio.run(run_test(full, frames_to_send=TURN * 3, expected_down_frames=expected))
    finally:
        logger.remove(sink)
    assert told == ["/dev/full: the transcript is not complete: No space left on device"]


def test_everything_is_written_when_the_pipeline_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    asyncio.run(run_test(TranscriptFile(path), frames_to_send=TURN * 3, expected_down_frames=None))
    assert path.read_text().count('"who": "bot", "text": "Hello."') == 3
