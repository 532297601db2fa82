"""The cascade of the examples: our recogniser, an LLM and a voice behind OpenAI's endpoints.

The recogniser has random weights and knows one word; the rest is real.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")
pytest.importorskip("openai", reason="the openai package is not installed")

from pipecat.frames.frames import BotStoppedSpeakingFrame, ErrorFrame, UserStoppedSpeakingFrame
from pipecat.pipeline.worker import PipelineParams
from pipecat.processors.filters.identity_filter import IdentityFilter

from tests.adapters.language_model import language_model, speech
from tests.adapters.pipecat.pipecat_calls import Caller, Loudspeaker, call_pipeline
from tests.recogniser_model import write_sparing_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore:.AudioContextTTSService. is deprecated:DeprecationWarning"),  # its own
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("flite") is None, reason="not installed: flite"),
]

EXAMPLE = Path(__file__).parents[3] / "examples" / "pipecat_cascade.py"
ANSWER = "It is on its way."
PARAMS = PipelineParams(audio_in_sample_rate=24_000, audio_out_sample_rate=24_000)


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipecat_cascade", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _ask(caller: Caller) -> None:
    await caller.ask("Thank you very much.")
    await caller.hear(BotStoppedSpeakingFrame)


def test_a_question_is_written_down_answered_and_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOSHI_STT", str(write_sparing_checkpoint(tmp_path / "stt")))
    with language_model(lambda body: ANSWER) as endpoint:
        monkeypatch.setenv("LLM_URL", endpoint.url)
        monkeypatch.setenv("TTS_URL", endpoint.url)
        example, loudspeaker = _example(), Loudspeaker()
        with example.load_engine() as engine:
            processors = example.processors(engine, IdentityFilter(), loudspeaker)
            notes = asyncio.run(call_pipeline(processors, _ask, PARAMS))
    assert not notes.of(ErrorFrame)
    assert len(notes.of(UserStoppedSpeakingFrame)) >= 1
    question = endpoint.asked[0]["messages"][-1]
    assert question["role"] == "user" and set(question["content"].split()) == {"the"}
    assert endpoint.spoken[0] == ANSWER
    played = np.frombuffer(loudspeaker.played, "<i2").astype(np.float32)
    said = np.frombuffer(speech(ANSWER, "pcm"), "<i2").astype(np.float32)
    assert np.abs(played).max() == np.abs(said).max(), "the voice, as it came"
