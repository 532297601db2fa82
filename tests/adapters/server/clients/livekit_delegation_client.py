"""LiveKit's own `GPTLiveModel` that has something looked up by the application or by the server.

python livekit_delegation_client.py URL client|responses EXPECTED MODEL_URL
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


@llm.function_tool
async def what_are_you(language: str) -> str:
    """Says what it is."""
    return "program"


async def _ask(url: str, mode: str, expected: str) -> str:
    """Opens a session as LiveKit's framework does, runs its tools, and speaks until the words have come."""
    model = GPTLiveModel(api_key="unused", base_url=f"{url}/v1", delegation=mode)  # pyright: ignore
    session = model.session()
    said: list[str] = []
    running = set[asyncio.Task[None]]()

    async def run(call: llm.FunctionCall) -> None:
        output = await what_are_you(language="en")
        item = llm.FunctionCallOutput(call_id=call.call_id, name=call.name, output=output, is_error=False)
        await session._append_items([item])  # what the framework calls  # pyright: ignore

    def begin(call: llm.FunctionCall) -> None:
        task = asyncio.create_task(run(call))
        running.add(task)
        task.add_done_callback(running.discard)

    session.on("transcript_delta", lambda delta: said.append(delta.text))
    session.on("function_call", begin)
    session.on("delegation_created", lambda one: session.append_commentary(expected, delegation_id=one.id))
    tools = [what_are_you] if mode == "responses" else []
    await session._update_session(  # pyright: ignore
        instructions="Be brief.", chat_ctx=llm.ChatContext.empty(), tools=tools
    )
    await _speak(session, said, expected)
    await session.aclose()
    await model.aclose()
    return "".join(said)


async def _speak(session: llm.DuplexSession, said: list[str], expected: str) -> None:
    """In real time, until the words have come."""
    samples = read_audio(find_question("What is your name?", sample_questions()).path)
    start = time.monotonic()
    for number in range(4500):
        chunk = samples[number * CHUNK : (number + 1) * CHUNK]
        data = (np.concatenate([chunk, np.zeros(CHUNK - len(chunk))]) * 32767).astype("<i2").tobytes()
        session.push_audio(
            rtc.AudioFrame(data=data, sample_rate=24_000, num_channels=1, samples_per_channel=CHUNK)
        )
        if expected in "".join(said):
            return
        await asyncio.sleep(max(0.0, start + (number + 1) * 0.02 - time.monotonic()))


if __name__ == "__main__":
    print(asyncio.run(_ask(*sys.argv[1:4])))
