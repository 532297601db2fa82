"""The user's words in a Pipecat pipeline from the engine's own recogniser: one that knows one word."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from pipecat.frames.frames import InterimTranscriptionFrame, TranscriptionFrame
from pipecat.pipeline.worker import PipelineParams
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair

from moshi_agent import Engine, SessionConfig
from moshi_agent_adapters.pipecat import MoshiLLMService, TranscriptFile
from tests.adapters.pipecat.pipecat_calls import Caller, Loudspeaker, call_pipeline, until
from tests.recogniser_model import write_sparing_checkpoint

pytestmark = pytest.mark.real_time

RATE_HZ = 16_000
PARAMS = PipelineParams(audio_in_sample_rate=RATE_HZ, audio_out_sample_rate=RATE_HZ)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))
    options = {"transcriber": str(folder), "admit_by_time": False, "shared": False}
    with Engine.load("tiny", device="cpu", capacity=1, **options) as engine:
        yield engine


def test_the_users_words_reach_the_context_and_the_transcript(engine: Engine, tmp_path: Path) -> None:
    context, transcript = LLMContext(), tmp_path / "call.jsonl"
    pair = LLMContextAggregatorPair(context)
    llm = MoshiLLMService(engine=engine, session=SessionConfig(seed=1))

    def users_messages() -> list[str]:
        return [message["content"] for message in context.get_messages() if message["role"] == "user"]

    async def script(caller: Caller) -> None:
        await caller.ask("Thank you very much.")
        await caller.hear(TranscriptionFrame)
        await until(lambda: bool(users_messages()))

    processors = [pair.user(), llm, TranscriptFile(transcript), Loudspeaker(), pair.assistant()]
    notes = asyncio.run(call_pipeline(processors, script, PARAMS))
    interim, final = notes.of(InterimTranscriptionFrame), notes.of(TranscriptionFrame)
    heard = final[0].text
    assert set(heard.split()) == {"the"}
    assert all(frame.finalized for frame in final)
    so_far = [frame.text for frame in interim][: len(heard.split())]
    assert so_far == [" ".join(["the"] * count) for count in range(1, len(heard.split()) + 1)]
    assert users_messages()[0].startswith(heard)
    entries = [json.loads(line) for line in transcript.read_text().splitlines()]
    assert heard in [entry.get("text") for entry in entries if entry["who"] == "caller"]
