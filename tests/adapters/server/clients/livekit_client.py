"""LiveKit's own `GPTLiveModel`, with a recording for a microphone.

python livekit_client.py URL QUESTION EXPECTED
"""

from __future__ import annotations

import asyncio
import sys
import time

import numpy as np

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions

try:
    from livekit import rtc
    from livekit.agents import llm
    from livekit.plugins.openai.realtime.gpt_live_model import GPTLiveModel
except ImportError as error:
    print(f"LiveKit's packages are not installed: {error}", file=sys.stderr)
    sys.exit(5)

CHUNK = 480  # 20 ms


async def _ask(url: str, question: str, expected: str) -> str:
    """Opens a session of the model as LiveKit's framework does, and speaks until the words have come."""
    samples = read_audio(find_question(question, sample_questions()).path)
    model = GPTLiveModel(api_key="unused", base_url=f"{url}/v1")
    session = model.session()
    said: list[str] = []
    errors: list[object] = []
    session.on("transcript_delta", lambda delta: said.append(delta.text))
    session.on("error", errors.append)
    await session._update_session(  # what the framework calls  # pyright: ignore
        instructions="Be brief.", chat_ctx=llm.ChatContext.empty(), tools=[]
    )
    frames: list[object] = []

    async def listen() -> None:
        async for frame in session.audio_stream:
            frames.append(frame)

    listening, start = asyncio.create_task(listen()), time.monotonic()
    for number in range(2000):
        chunk = samples[number * CHUNK : (number + 1) * CHUNK]
        data = (np.concatenate([chunk, np.zeros(CHUNK - len(chunk))]) * 32767).astype("<i2").tobytes()
        session.push_audio(
            rtc.AudioFrame(data=data, sample_rate=24_000, num_channels=1, samples_per_channel=CHUNK)
        )
        if expected in "".join(said):
            break
        await asyncio.sleep(max(0.0, start + (number + 1) * 0.02 - time.monotonic()))
    session.append_commentary("This has no effect.")
    await session.aclose()
    await model.aclose()
    await listening
    assert not errors, errors
    assert len(frames) > 20
    return "".join(said)


if __name__ == "__main__":
    print(asyncio.run(_ask(*sys.argv[1:4])))
