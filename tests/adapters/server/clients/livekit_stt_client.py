"""The speech-to-text of LiveKit's OpenAI plugin, over both protocols, with a recording for a microphone.

python livekit_stt_client.py URL QUESTION
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
    from livekit.agents import stt, utils
    from livekit.plugins import openai
except ImportError as error:
    print(f"LiveKit's packages are not installed: {error}", file=sys.stderr)
    sys.exit(5)

CHUNK = 480  # 20 ms


def _frame(pcm: np.ndarray) -> rtc.AudioFrame:
    data = (pcm * 32767).astype("<i2").tobytes()
    return rtc.AudioFrame(data=data, sample_rate=24_000, num_channels=1, samples_per_channel=len(pcm))


async def _listen(url: str, question: str) -> str:
    """Speaks as a microphone would, and goes on in silence until the words have come."""
    samples = read_audio(find_question(question, sample_questions()).path)
    async with utils.http_context.open():
        recogniser = openai.STT(api_key="unused", base_url=f"{url}/v1", use_realtime=True)
        async with recogniser.stream() as stream:

            async def speak() -> None:
                start = time.monotonic()
                for number in range(2000):
                    chunk = samples[number * CHUNK : (number + 1) * CHUNK]
                    stream.push_frame(_frame(np.concatenate([chunk, np.zeros(CHUNK - len(chunk))])))
                    await asyncio.sleep(max(0.0, start + (number + 1) * 0.02 - time.monotonic()))

            speaking, kinds = asyncio.create_task(speak()), list[stt.SpeechEventType]()
            async for event in stream:
                kinds.append(event.type)
                if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                    break
            speaking.cancel()
        assert stt.SpeechEventType.INTERIM_TRANSCRIPT in kinds, kinds
        whole = openai.STT(api_key="unused", base_url=f"{url}/v1", model="whisper-1", use_realtime=False)
        recognised = await whole.recognize([_frame(samples)])
        assert recognised.alternatives[0].text
        await recogniser.aclose()
    return event.alternatives[0].text


if __name__ == "__main__":
    print(asyncio.run(_listen(*sys.argv[1:3])))
