"""The cascade of the examples: our recogniser, an LLM and a voice behind OpenAI's endpoints.

The recogniser has random weights and knows one word, which it writes in silence as well: here it may not
interrupt.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")
pytest.importorskip("livekit.plugins.openai", reason="needs livekit-plugins-openai")

from livekit.agents import Agent
from livekit.agents.testing import fake_job_context

from moshi_agent import Engine
from tests.adapters.language_model import language_model, speech
from tests.adapters.livekit.livekit_calls import RATE_HZ, Call
from tests.recogniser_model import write_sparing_checkpoint

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("flite") is None, reason="not installed: flite"),
]

EXAMPLE = Path(__file__).parents[3] / "examples" / "livekit_cascade.py"
ANSWER = "It is on its way."


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("livekit_cascade", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _call(example: ModuleType, engine: Engine) -> Call:
    call = Call(example.cascade(engine))
    with fake_job_context() as job:
        try:
            await call.session.start(Agent(instructions="Be brief.", allow_interruptions=False))
            call.ask("Thank you very much.")
            await call.hear(1)
        finally:
            await call.session.aclose()
            job._tempdir.cleanup()  # pyright: ignore[reportPrivateUsage]
    return call


def test_a_question_is_written_down_answered_and_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOSHI_STT", str(write_sparing_checkpoint(tmp_path / "stt")))
    with language_model(lambda body: ANSWER) as endpoint:
        monkeypatch.setenv("LLM_URL", endpoint.url)
        monkeypatch.setenv("TTS_URL", endpoint.url)
        example = _example()
        with example.load_engine() as engine:
            call = asyncio.run(_call(example, engine))
    asked, answered = call.messages[:2]
    assert asked.role == "user" and set((asked.text_content or "").split()) == {"the"}
    assert (answered.role, answered.text_content) == ("assistant", ANSWER)
    read = [request["messages"][-1]["content"] for request in endpoint.asked]  # some of them before the end
    assert asked.text_content in read
    assert endpoint.spoken[0] == ANSWER
    said_s = len(speech(ANSWER, "pcm")) / 2 / RATE_HZ
    assert call.loudspeaker.segments[0] == pytest.approx(said_s, abs=0.1)
    assert not call.of("error")
