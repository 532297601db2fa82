"""A translator in a pipeline, by a small Hibiki with random weights: the protocol alone.

What such a model says means nothing, and how well Hibiki translates is not tested here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from pipecat.frames.frames import (
    ErrorFrame,
    SpeechOutputAudioRawFrame,
    TranslationFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.worker import PipelineParams

from moshi_agent import ConfigError, Engine, SessionConfig
from moshi_agent_adapters.pipecat import MoshiTranslator
from tests.adapters.pipecat.pipecat_calls import Caller, call_pipeline
from tests.translation_model import write_translation_checkpoint

PARAMS = PipelineParams(audio_in_sample_rate=16_000, audio_out_sample_rate=16_000)
# A random model speaks at no level that a gate is made for, and has to stop for its last sentence to be told.
CONFIG = SessionConfig(seed=1, silence_floor_dbfs=-60)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = write_translation_checkpoint(tmp_path_factory.mktemp("hibiki"))
    with Engine.load(str(folder), device="cpu", capacity=2, admit_by_time=False, shared=False) as engine:
        yield engine


@pytest.mark.real_time
def test_what_is_heard_is_said_and_written_in_the_other_language(engine: Engine) -> None:
    async def script(caller: Caller) -> None:
        await caller.ask("Thank you very much.")
        await caller.hear(TranslationFrame)
        await caller.hear(SpeechOutputAudioRawFrame, 20)

    notes = asyncio.run(call_pipeline([MoshiTranslator(engine=engine, session=CONFIG)], script, PARAMS))
    assert not notes.of(ErrorFrame)
    written = notes.of(TranslationFrame)
    assert all(frame.language == "en" and frame.text == frame.text.strip() for frame in written)
    sound = notes.of(SpeechOutputAudioRawFrame)
    assert {(frame.sample_rate, len(frame.audio)) for frame in sound} == {(16_000, 2 * 1280)}
    borders = [type(frame) for frame in notes.of(TTSStartedFrame, TTSStoppedFrame)]
    assert borders[0] is TTSStartedFrame
    assert all(one is not other for one, other in pairwise(borders))


def test_a_full_engine_is_reported(engine: Engine) -> None:
    async def script(caller: Caller) -> None:
        await caller.be_silent(0.3)

    with engine.session(), engine.session():
        notes = asyncio.run(call_pipeline([MoshiTranslator(engine=engine)], script, PARAMS))
    [error] = notes.of(ErrorFrame)
    assert "no row is free" in error.error


def test_a_model_of_dialogue_is_refused(four_rows: Engine) -> None:
    with pytest.raises(ConfigError, match="hibiki"):
        MoshiTranslator(engine=four_rows)
