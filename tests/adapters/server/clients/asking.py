"""One client in a process of its own, for the proof with many of them.

    python -m tests.adapters.server.clients.asking PROTOCOL URL QUESTION EXPECTED

Prints `begun` when its conversation has begun, asks when it reads a line, and prints what the bot said.
"""

from __future__ import annotations

import asyncio
import sys

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions
from moshi_agent_adapters.protocols.live_audio import LiveAudio
from tests.adapters.server.server_clients import Gate, Heard, ask_kyutai, ask_live, question

MU_LAW = LiveAudio("audio/pcmu", 8000)


async def _ask(protocol: str, url: str, words: str, expected: str) -> Heard:
    gate = Gate(asyncio.Event(), lambda: print("begun", flush=True))
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), gate.opened.set)
    if protocol == "kyutai":
        return await ask_kyutai(url, question(words), expected, gate=gate)
    if protocol == "live":
        return await ask_live(url, question(words), expected, gate=gate)
    if protocol == "webrtc":
        from tests.adapters.webrtc.webrtc_asking import ask_webrtc

        samples = read_audio(find_question(words, sample_questions()).path, 48_000)
        return await ask_webrtc(url.replace("ws", "http", 1), samples, expected, gate)
    assert protocol == "telephone"
    # The middle of three samples is near enough to what a telephone does.
    return await ask_live(url, question(words)[::3].copy(), expected, MU_LAW, gate)


if __name__ == "__main__":
    heard = asyncio.run(_ask(*sys.argv[1:5]))
    assert heard.energy > 1, "nothing was said aloud"
    print(heard.text.strip(), flush=True)
