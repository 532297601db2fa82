"""What the user says is answered by a worker of Pipecat's, with a tool of its own, in Moshi's voice.

The recogniser knows one word; the worker's model is an endpoint of this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")
pytest.importorskip("openai", reason="the openai package is not installed")

from pipecat.frames.frames import (
    ErrorFrame,
    ExternalFunctionCallInProgressFrame,
    ExternalFunctionCallResultFrame,
    TTSTextFrame,
)
from pipecat.pipeline.worker import PipelineParams
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.workers.llm.backend_llm_worker import BackendLLMWorker

from moshi_agent import AskConfig, ConfigError, Engine, SessionConfig
from moshi_agent_adapters.pipecat import MoshiLLMService
from tests.adapters.language_model import Decide, LanguageModelEndpoint, by_tool, language_model
from tests.adapters.pipecat.pipecat_calls import Caller, Loudspeaker, Notes, call_pipeline
from tests.recogniser_model import write_sparing_checkpoint

RATE_HZ = 16_000
PARAMS = PipelineParams(audio_in_sample_rate=RATE_HZ, audio_out_sample_rate=RATE_HZ)
ANSWER = "I am a computer program with a voice."
APOLOGY = "I like to talk."


async def what_are_you(params: FunctionCallParams, language: str) -> None:
    """Says what it is.

    Args:
        language: In which.
    """
    await params.result_callback("program")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))
    options = {"transcriber": str(folder), "admit_by_time": False, "shared": False}
    with Engine.load("tiny", device="cpu", capacity=1, **options) as engine:
        yield engine


def _said(notes: Notes) -> str:
    return "".join(frame.text for frame in notes.of(TTSTextFrame))


def _call(
    engine: Engine, decide: Decide, expected: str, timeout_secs: float = 30.0
) -> tuple[Notes, LLMContext, LanguageModelEndpoint, list[Any]]:
    """A call that goes on until the bot has said the words."""
    context, delegated = LLMContext(), list[Any]()
    pair = LLMContextAggregatorPair(context)

    async def script(caller: Caller) -> None:
        await caller.ask("What is your name?")
        async with asyncio.timeout(90):
            while expected not in _said(caller.notes):
                await caller.be_silent(0.1)
        await caller.be_silent(2.0)  # the turn is over, and in the context

    with language_model(decide) as endpoint:
        llm = OpenAILLMService(
            api_key="unused", base_url=endpoint.url, settings=OpenAILLMService.Settings(model="m")
        )
        backend = BackendLLMWorker(llm=llm, context=LLMContext(tools=[what_are_you]))
        service = MoshiLLMService(
            engine=engine,
            session=SessionConfig(seed=1),
            delegation=MoshiLLMService.ClientDelegation(
                backend=backend, timeout_secs=timeout_secs, apology=APOLOGY
            ),
        )

        @service.event_handler("on_delegation_created")
        async def _(service: object, wanted: object) -> None:
            delegated.append(wanted)

        processors = [pair.user(), service, Loudspeaker(), pair.assistant()]
        notes = asyncio.run(call_pipeline(processors, script, PARAMS))
    return notes, context, endpoint, delegated


@pytest.mark.real_time
def test_the_worker_runs_its_tool_and_moshi_says_what_it_found(engine: Engine) -> None:
    found = by_tool("what_are_you", {"language": "en"}, lambda output: f">> {ANSWER}")
    notes, context, endpoint, delegated = _call(engine, found, ANSWER)
    assert delegated[0].question.split()[0] == "the"
    assert notes.of(ExternalFunctionCallInProgressFrame)[0].function_name == "what_are_you"
    assert notes.of(ExternalFunctionCallResultFrame)[0].result == "program"
    assert not notes.of(ErrorFrame)
    said = {message["role"]: message["content"] for message in context.get_messages()}
    assert ANSWER in said["assistant"]
    assert "the" in said["user"]
    assert "USER: the" in str(endpoint.asked[0]["messages"])


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize(("answer", "timeout_secs"), [(400, 30.0), (60.0, 1.0)], ids=["fails", "hangs"])
def test_a_worker_that_is_of_no_use_is_an_apology_and_an_error_frame(
    engine: Engine, answer: Any, timeout_secs: float
) -> None:
    notes, *_ = _call(engine, lambda body: answer, APOLOGY, timeout_secs)
    assert notes.of(ErrorFrame)


def test_delegation_that_cannot_be_is_refused(engine: Engine, four_rows: Engine) -> None:
    delegation = MoshiLLMService.ClientDelegation(backend="elsewhere")
    with pytest.raises(ConfigError, match=r"accepted: Engine\.load"):
        MoshiLLMService(engine=four_rows, delegation=delegation)
    with pytest.raises(ConfigError, match="it sets both"):
        MoshiLLMService(engine=engine, delegation=delegation, session=SessionConfig(asking=AskConfig()))
