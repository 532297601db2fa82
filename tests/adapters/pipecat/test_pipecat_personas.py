"""Roles and voices in a Pipecat pipeline."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from pipecat.frames.frames import ErrorFrame, LLMContextFrame, SpeechOutputAudioRawFrame
from pipecat.pipeline.worker import PipelineParams
from pipecat.processors.aggregators.llm_context import LLMContext

from moshi_agent import Engine, SessionConfig
from moshi_agent_adapters.pipecat import MoshiLLMService
from tests.adapters.pipecat.pipecat_calls import Caller, call_pipeline, until

PARAMS = PipelineParams(audio_in_sample_rate=16_000, audio_out_sample_rate=16_000)
Settings = MoshiLLMService.Settings


@pytest.mark.parametrize(
    ("settings", "role", "voice"),
    [
        (Settings(role="A cat.", system_instruction="A dog."), "A cat.", "NATM1"),
        (Settings(system_instruction="A dog.", voice="NATF0"), "A dog.", "NATF0"),
        (Settings(voice=Path("me.wav")), "You are a pirate.\nBe brief.", Path("me.wav")),
    ],
)
def test_role_and_voice_come_from_settings_session_or_context(
    personaplex: Engine, settings: MoshiLLMService.Settings, role: str, voice: str | Path
) -> None:
    llm = MoshiLLMService(engine=personaplex, settings=settings, session=SessionConfig(voice="NATM1"))
    llm._context = LLMContext(
        [
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": "Hello"},
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        ]
    )
    config = llm._session_config()
    assert (config.role, config.voice) == (role, voice)


@pytest.mark.real_time
def test_a_role_that_comes_with_a_late_context_begins_the_conversation_anew(personaplex: Engine) -> None:
    llm = MoshiLLMService(engine=personaplex, settings=Settings(voice="NATF0"))
    pirate, cat = (LLMContext([{"role": "system", "content": text}]) for text in ("A pirate.", "A cat."))
    sessions: list[SessionConfig] = []

    async def script(caller: Caller) -> None:
        await caller.hear(SpeechOutputAudioRawFrame)  # it has begun with the first audio
        for context, role in ((pirate, "A pirate."), (cat, "A pirate.")):
            await caller.worker.queue_frame(LLMContextFrame(context))
            await until(lambda role=role: llm._session is not None and llm._session.config.role == role)
            await caller.be_silent(0.3)
            assert llm._session is not None
            sessions.append(llm._session.config)

    notes = asyncio.run(call_pipeline([llm], script, PARAMS))
    assert [(config.role, config.voice) for config in sessions] == [("A pirate.", "NATF0")] * 2
    assert not notes.of(ErrorFrame)


def test_a_voice_that_is_none_ends_the_conversation_with_an_error(personaplex: Engine) -> None:
    llm = MoshiLLMService(engine=personaplex, settings=Settings(voice="NATF9"))

    async def script(caller: Caller) -> None:
        await caller.hear(ErrorFrame)

    (error,) = asyncio.run(call_pipeline([llm], script, PARAMS)).of(ErrorFrame)
    assert "no voice 'NATF9'; there are: NATF0, NATM1" in error.error
