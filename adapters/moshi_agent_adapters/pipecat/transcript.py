"""What was said in a call, in a file."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loguru import logger
from pipecat.frames.frames import (
    Frame,
    LLMFullResponseEndFrame,
    ProposedUserStartedSpeakingFrame,
    TranscriptionFrame,
    TTSTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor


class TranscriptFile(FrameProcessor):
    """Writes what the bot says, and when the caller begins to speak, as lines of JSON.

        {"at_s": 4.1, "who": "bot", "text": "Hello, this is Moshi."}
        {"at_s": 5.0, "who": "caller", "speaks": true}
        {"at_s": 6.7, "who": "caller", "text": "Who am I talking to?"}

    `at_s` counts from the making of this object; a turn of the bot is written when it is over. There are
    words of the caller only if the engine has a `transcriber`. Its place is after the service. Frames never
    wait for the disk; a line that cannot be written is lost, and the log says so once.

    Args:
        path: of the file, which is added to.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._began = time.monotonic()
        self._text = ""
        self._writer = ThreadPoolExecutor(1, "transcript")  # one: lines stay in order
        self._has_failed = False

    async def cleanup(self) -> None:
        """Waits until everything is written."""
        await super().cleanup()
        await asyncio.to_thread(self._writer.shutdown)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Notes the frame and passes it on."""
        await super().process_frame(frame, direction)
        match frame:
            case TTSTextFrame():
                self._text += frame.text
            case LLMFullResponseEndFrame() if self._text:
                self._write(who="bot", text=self._text.strip())
                self._text = ""
            case ProposedUserStartedSpeakingFrame():
                self._write(who="caller", speaks=True)
            case TranscriptionFrame():
                self._write(who="caller", text=frame.text.strip())
            case _:
                pass
        await self.push_frame(frame, direction)

    def _write(self, **entry: object) -> None:
        """Adds a line, off the event loop: what was said is there even if the process dies."""
        entry = {"at_s": round(time.monotonic() - self._began, 2), **entry}
        self._writer.submit(self._append, json.dumps(entry, ensure_ascii=False) + "\n")

    def _append(self, line: str) -> None:
        try:
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(line)
        except OSError as error:
            if not self._has_failed:
                logger.error("{}: the transcript is not complete: {}", self._path, error.strerror)
            self._has_failed = True
