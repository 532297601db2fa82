"""A cascade on Pipecat: Kyutai's speech recognition in this process, any LLM, any text-to-speech.

    pip install "moshi-agent[pipecat]"
    export LLM_URL=http://localhost:11434/v1 TTS_URL=http://localhost:8880/v1
    python examples/pipecat_cascade.py

Open http://localhost:7860 and press Connect. LLM_URL is a server of OpenAI's Chat Completions (Ollama, vLLM,
llama.cpp), TTS_URL one of OpenAI's speech (Kokoro-FastAPI, speaches); LLM_MODEL and TTS_MODEL name the models
there. MOSHI_STT names another recogniser than kyutai/stt-1b-en_fr, and MOSHI_CALLS says how many may call at
once: all of them share one engine.
"""

import asyncio
import os

from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner

from moshi_agent import Engine
from moshi_agent_adapters.pipecat import MoshiSTTService

INSTRUCTIONS = "You answer by voice, in one or two short sentences."
KEY = os.environ.get("OPENAI_API_KEY", "none")


def load_engine() -> Engine:
    """The engine that all calls share: loaded once, by whoever is first."""
    model, calls = os.environ.get("MOSHI_STT", "kyutai/stt-1b-en_fr"), os.environ.get("MOSHI_CALLS", "8")
    return Engine.load(model, recogniser=True, capacity=int(calls))


def language_model() -> OpenAILLMService:
    """What thinks."""
    settings = OpenAILLMService.Settings(
        model=os.environ.get("LLM_MODEL", "default"), system_instruction=INSTRUCTIONS
    )
    url = os.environ.get("LLM_URL", "http://localhost:11434/v1")
    return OpenAILLMService(base_url=url, api_key=KEY, settings=settings)


def voice() -> OpenAITTSService:
    """What speaks."""
    settings = OpenAITTSService.Settings(model=os.environ.get("TTS_MODEL", "default"))
    url = os.environ.get("TTS_URL", "http://localhost:8880/v1")
    return OpenAITTSService(base_url=url, api_key=KEY, settings=settings)


def processors(engine: Engine, ears: FrameProcessor, mouth: FrameProcessor) -> list[FrameProcessor]:
    """The pipeline between two ends of a transport. The recogniser tells when the user's turn is over."""
    stt = MoshiSTTService(engine=engine)
    context = LLMContextAggregatorPair(LLMContext())
    return [ears, stt, context.user(), language_model(), voice(), mouth, context.assistant()]


async def talk(engine: Engine, transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """One call."""
    worker = PipelineWorker(
        Pipeline(processors(engine, transport.input(), transport.output())),
        params=PipelineParams(audio_in_sample_rate=24_000, audio_out_sample_rate=24_000),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
    )

    @transport.event_handler("on_client_disconnected")
    async def leave(transport: BaseTransport, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """What Pipecat's runner calls for each connection."""
    params = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
    transport = await create_transport(runner_args, {"webrtc": lambda: params})
    async with await asyncio.to_thread(load_engine) as engine:
        await talk(engine, transport, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    with load_engine():  # before the first caller, and kept between calls
        main()
