"""Pipecat's own `OpenAILiveLLMService`, that has something looked up by a worker or by the server.

python pipecat_delegation_client.py URL client|responses EXPECTED MODEL_URL
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

try:
    from loguru import logger
    from pipecat.frames.frames import EndFrame, LLMRunFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
    from pipecat.services.llm_service import FunctionCallParams
    from pipecat.services.openai.live.llm import OpenAILiveLLMService
    from pipecat.services.openai.llm import OpenAILLMService
    from pipecat.services.openai.responses.llm import OpenAIResponsesLLMService
    from pipecat.workers.llm.backend_llm_worker import BackendLLMWorker
    from pipecat.workers.runner import WorkerRunner
    from pipecat_client import Ear, _speak  # pyright: ignore
except ImportError as error:
    print(f"Pipecat is not installed: {error}", file=sys.stderr)
    sys.exit(5)

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import find_question, sample_questions


async def what_are_you(params: FunctionCallParams, language: str) -> None:
    """Says what it is.

    Args:
        language: In which.
    """
    await params.result_callback("program")


def _delegation(mode: str, model_url: str) -> Any:
    if mode == "responses":
        settings = OpenAIResponsesLLMService.Settings(model="gpt-5")
        return OpenAILiveLLMService.ResponsesDelegation(settings=settings)
    llm = OpenAILLMService(
        api_key="unused", base_url=model_url, settings=OpenAILLMService.Settings(model="m")
    )
    return OpenAILiveLLMService.ClientDelegation(
        backend=BackendLLMWorker(llm=llm, context=LLMContext(tools=[what_are_you]))
    )


async def _ask(url: str, mode: str, expected: str, model_url: str) -> str:
    llm = OpenAILiveLLMService(
        api_key="unused",
        base_url=f"{url.replace('http', 'ws', 1)}/v1/live/sessions",
        settings=OpenAILiveLLMService.Settings(system_instruction="Be brief."),
        delegation=_delegation(mode, model_url),
    )
    started = asyncio.Event()

    @llm.event_handler("on_session_started")
    async def begin(service: object, session: object) -> None:
        started.set()

    context, ear = LLMContext(tools=[what_are_you] if mode == "responses" else []), Ear()
    both = LLMContextAggregatorPair(context)
    worker = PipelineWorker(
        Pipeline([both.user(), llm, ear, both.assistant()]),
        params=PipelineParams(audio_in_sample_rate=24_000),
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await worker.queue_frame(LLMRunFrame())
    await started.wait()
    await _speak(
        worker, read_audio(find_question("What is your name?", sample_questions()).path), ear, expected
    )
    await worker.queue_frame(EndFrame())
    await running
    return ear.text


if __name__ == "__main__":
    logger.remove()
    print(asyncio.run(_ask(*sys.argv[1:5])))
