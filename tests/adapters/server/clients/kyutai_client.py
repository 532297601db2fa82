"""The connection of Kyutai's own `moshi.client`, with a recording for a microphone and no speakers.

python kyutai_client.py URL QUESTION EXPECTED
"""

from __future__ import annotations

import asyncio
import sys
import time
import types
from typing import Any

import numpy as np

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions

FRAME = 1920


class Stream:
    """A sounddevice stream whose callback is called by this program."""

    opened: list[Stream] = []  # noqa: RUF012

    def __init__(self, callback: Any, **options: Any) -> None:
        self.callback = callback
        Stream.opened.append(self)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _peer() -> Any:
    """The peer's module. It opens audio devices when it is used: here, these streams."""
    devices = types.ModuleType("sounddevice")
    devices.InputStream = devices.OutputStream = Stream  # pyright: ignore
    sys.modules["sounddevice"] = devices
    try:
        from moshi import client  # pyright: ignore
        from moshi.client_utils import RawPrinter  # pyright: ignore
    except ImportError as error:
        print(f"Kyutai's package is not installed: {error}", file=sys.stderr)
        sys.exit(5)
    return client, RawPrinter


async def _ask(url: str, question: str, expected: str) -> str:
    import aiohttp

    client, printer_class = _peer()
    said: list[str] = []

    class Printer(printer_class):  # pyright: ignore
        def print_token(self, token: str) -> None:
            said.append(token)

    samples = read_audio(find_question(question, sample_questions()).path)
    samples = np.concatenate([np.zeros(FRAME, np.float32), samples])  # the first frame is not heard
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/api/chat") as websocket:
        connection = client.Connection(Printer(), websocket, event_loop=asyncio.get_running_loop())
        task = asyncio.create_task(connection.run())
        microphone, speakers = Stream.opened
        energy, start, played = 0.0, time.monotonic(), np.zeros((FRAME, 1), np.float32)
        for number in range(500):
            chunk = samples[number * FRAME : (number + 1) * FRAME]
            chunk = np.concatenate([chunk, np.zeros(FRAME - len(chunk), np.float32)])
            microphone.callback(chunk[:, None], FRAME, None, None)
            speakers.callback(played, FRAME, None, None)
            energy += float(np.square(played).sum())
            if expected in "".join(said) and energy > 10:
                break
            await asyncio.sleep(max(0.0, start + (number + 1) * 0.08 - time.monotonic()))
        await websocket.close()
        await task
    return "".join(said)


if __name__ == "__main__":
    print(asyncio.run(_ask(*sys.argv[1:4])))
