"""A caller who does nothing wrong, in a process of its own, and notes what it gets."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from moshi_agent_adapters.protocols.live_audio import PCM_24K
from tests.adapters.server.bad_clients import START, append
from tests.adapters.server.server_clients import CHUNK_S, paced, question
from tests.benchmarks.attacks import unverified

ADDRESS = "127.0.0.9"  # its own: what is counted by address is not the others' fault
QUESTIONS = (
    ("What is your name?", "My name is Moshi"),
    ("Hello there.", "nice to talk"),
    ("Count to five.", "three, four, five"),
    ("What is the capital of France?", "Paris"),
)
ASKS_EVERY_S = 7.52
_CHUNKS_A_QUESTION, _CHUNKS_BEFORE = round(ASKS_EVERY_S / CHUNK_S), 12  # the first one after a second
_SILENT_S = 10.0  # without a message, after which the call is lost
_AGAIN_S = 0.5  # after a call that was lost


@dataclass(frozen=True)
class Chunk:
    """Audio came, by the monotonic clock, which all processes share."""

    at: float


@dataclass(frozen=True)
class Answer:
    """What became of a question that was asked at this time."""

    at: float
    is_right: bool


@dataclass(frozen=True)
class Lost:
    """Its call ended, or none began."""

    at: float
    why: str


Noted = Chunk | Answer | Lost


def call_again_and_again(url: str, until: float, notes: multiprocessing.Queue[Noted]) -> None:
    """Calls over GPT-Live until a time, again whenever a call is lost. Puts what it notes into a queue."""
    asyncio.run(_call_again_and_again(url, until, notes.put))


async def _call_again_and_again(url: str, until: float, note: Callable[[Noted], None]) -> None:
    while time.monotonic() < until:
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await _Call(note).hold(url)
        except TimeoutError:
            if time.monotonic() < until:
                note(Lost(time.monotonic(), f"nothing came for {_SILENT_S:g} s"))
        except (OSError, WebSocketException, _Ended) as error:
            note(Lost(time.monotonic(), repr(error)[:200]))
            await asyncio.sleep(_AGAIN_S)


class _Ended(Exception):
    """The server has ended the call."""


class _Call:
    """One call, with a question now and then."""

    def __init__(self, note: Callable[[Noted], None]) -> None:
        self._note = note
        self._text = ""  # since the last question
        self._asked: tuple[float, str] | None = None  # when, and what the answer holds

    async def hold(self, url: str) -> None:
        tls = unverified() if url.startswith("wss") else None
        async with connect(url, ssl=tls, open_timeout=_SILENT_S, local_addr=(ADDRESS, 0)) as websocket:
            await websocket.send(START)
            speech = asyncio.create_task(self._speak(websocket))
            try:
                while True:
                    self._take(json.loads(await asyncio.wait_for(websocket.recv(), _SILENT_S)))
            finally:
                speech.cancel()
                await asyncio.gather(speech, return_exceptions=True)

    async def _speak(self, websocket: ClientConnection) -> None:
        clips = [question(words) for words, _ in QUESTIONS]
        left, number = np.zeros(0, np.float32), 0
        async for silence in paced(left):  # the clock
            if number % _CHUNKS_A_QUESTION == _CHUNKS_BEFORE:
                asked = number // _CHUNKS_A_QUESTION % len(QUESTIONS)
                left = clips[asked]
                self._ask(QUESTIONS[asked][1])
            chunk, left = left[: len(silence)], left[len(silence) :]
            await websocket.send(append(PCM_24K.encode(np.pad(chunk, (0, len(silence) - len(chunk))))))
            number += 1

    def _ask(self, expected: str) -> None:
        self._judge()
        self._asked, self._text = (time.monotonic(), expected), ""

    def _judge(self) -> None:
        if self._asked is not None:
            at, expected = self._asked
            self._note(Answer(at, expected.lower() in self._text.lower()))

    def _take(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "session.output_audio.delta":
                self._note(Chunk(time.monotonic()))
            case "session.output_transcript.delta":
                self._text += event["delta"]
            case "error" | "session.closed":
                raise _Ended(json.dumps(event))
            case _:
                pass
