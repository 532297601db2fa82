"""Speech recognition in LiveKit: many streams on one engine that is a recogniser of one word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")

from livekit import rtc
from livekit.agents import APIConnectionError, stt

from moshi_agent import ConfigError, Engine
from moshi_agent_adapters.livekit import STT
from tests.adapters.livekit.livekit_calls import NO_RETRY, PACKET, RATE_HZ, Microphone, question
from tests.recogniser_model import write_sparing_checkpoint

QUESTIONS = ("What is your name?", "Thank you very much.", "Count to five.", "Tell me a joke.")
Kind = stt.SpeechEventType


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder: Path = write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))
    options = {"recogniser": True, "capacity": 4, "admit_by_time": False, "shared": False}
    with Engine.load(str(folder), device="cpu", **options) as engine:
        yield engine


def _frame(pcm: np.ndarray) -> rtc.AudioFrame:
    return rtc.AudioFrame(pcm.tobytes(), RATE_HZ, 1, len(pcm))


async def _stream(recogniser: STT, text: str, opened: asyncio.Barrier) -> list[stt.SpeechEvent]:
    """The events of a stream in real time, to the end of its input."""
    events: list[stt.SpeechEvent] = []
    microphone, speech = Microphone(), question(text)
    async with recogniser.stream(conn_options=NO_RETRY) as stream:
        await opened.wait()

        async def speak() -> None:
            microphone.speak(speech)
            for _ in range(len(speech) // PACKET + 100):  # and two seconds of silence
                stream.push_frame(await anext(microphone))
            stream.end_input()

        speaking = asyncio.create_task(speak())
        async for event in stream:
            events.append(event)
        await speaking
    return events


@pytest.mark.real_time
def test_four_streams_at_once_and_a_fifth_is_refused(engine: Engine) -> None:
    recogniser = STT(engine)

    async def be_refused(opened: asyncio.Barrier) -> None:
        await opened.wait()
        await asyncio.sleep(0.5)
        with pytest.raises(APIConnectionError, match="no row is free"):
            async with recogniser.stream(conn_options=NO_RETRY) as stream:
                await anext(stream)

    async def main() -> list[list[stt.SpeechEvent]]:
        opened = asyncio.Barrier(5)
        streams = [_stream(recogniser, text, opened) for text in QUESTIONS]
        *events, _ = await asyncio.gather(*streams, be_refused(opened))
        return events

    for events in asyncio.run(main()):
        kinds = [event.type for event in events]
        assert kinds[0] is Kind.START_OF_SPEECH
        assert kinds.count(Kind.START_OF_SPEECH) == kinds.count(Kind.END_OF_SPEECH)
        first_final = kinds.index(Kind.FINAL_TRANSCRIPT)
        assert kinds[first_final + 1] is Kind.END_OF_SPEECH
        interim = [e.alternatives[0].text for e in events[:first_final] if e.type is Kind.INTERIM_TRANSCRIPT]
        final = events[first_final].alternatives[0]
        assert interim == [" ".join(["the"] * count) for count in range(1, len(final.text.split()) + 1)]
        early = [e.alternatives[0].text for e in events[:first_final] if e.type is Kind.PREFLIGHT_TRANSCRIPT]
        assert early and set(early) <= set(interim)
        assert final.words is not None and [str(word) for word in final.words] == final.text.split()
        starts = [word.start_time for word in final.words]
        assert starts == sorted(starts) and final.start_time == starts[0]
        heard_s = sum(e.recognition_usage.audio_duration for e in events if e.recognition_usage)
        assert heard_s > 2


def test_a_recording_is_written_down_as_fast_as_it_goes(engine: Engine) -> None:
    async def main() -> stt.SpeechEvent:
        return await STT(engine, language="fr").recognize([_frame(question(QUESTIONS[0]))])

    event = asyncio.run(main())
    said = event.alternatives[0]
    assert event.type is Kind.FINAL_TRANSCRIPT
    assert said.language == "fr" and said.words
    assert [str(word) for word in said.words] == said.text.split()


def test_an_engine_that_speaks_is_refused(four_rows: Engine) -> None:
    with pytest.raises(ConfigError, match="recogniser=True"):
        STT(four_rows)
