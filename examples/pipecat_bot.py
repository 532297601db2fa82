"""A bot for the browser or the telephone, on Pipecat's runner.

    pip install "moshi-agent[pipecat]"
    python examples/pipecat_bot.py

Open http://localhost:7860, press Connect, and ask one of the built-in model's questions, as shown by
`moshi-agent run --list-questions`. For a telephone provider (twilio, telnyx, plivo, exotel), with its keys in
the environment:

    python examples/pipecat_bot.py -t twilio -x your-host.example.com

MOSHI_MODEL names another checkpoint, such as kyutai/moshiko-pytorch-bf16.
"""

import asyncio
import os

from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.runner.types import RunnerArguments, SmallWebRTCRunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner

from moshi_agent import Engine, SessionConfig
from moshi_agent_adapters.pipecat import MoshiLLMService

CALLS = 4  # at once


def load_engine() -> Engine:
    """The engine that all calls share: loaded once, by whoever is first."""
    return Engine.load(os.environ.get("MOSHI_MODEL", "tiny"), capacity=CALLS)


def phone() -> FastAPIWebsocketParams:
    return FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, audio_out_end_silence_secs=0)


def browser() -> TransportParams:
    return TransportParams(audio_in_enabled=True, audio_out_enabled=True)


TRANSPORTS = {"webrtc": browser, "twilio": phone, "telnyx": phone, "plivo": phone, "exotel": phone}


async def talk(
    engine: Engine, transport: BaseTransport, sample_rate: int, runner_args: RunnerArguments
) -> None:
    """One call. Moshi works at 24 kHz and resamples without delay: give it the transport's own rate."""
    llm = MoshiLLMService(engine=engine, session=SessionConfig(greet=True))
    context = LLMContextAggregatorPair(LLMContext())
    worker = PipelineWorker(
        Pipeline([transport.input(), context.user(), llm, transport.output(), context.assistant()]),
        params=PipelineParams(
            audio_in_sample_rate=sample_rate,
            audio_out_sample_rate=sample_rate,
            enable_metrics=True,
            enable_usage_metrics=True,
        ),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
        processor_unusable_policy=ProcessorUnusablePolicy.END,
    )

    @transport.event_handler("on_client_connected")
    async def greet(transport: BaseTransport, client: object) -> None:
        await worker.queue_frame(LLMRunFrame())

    @transport.event_handler("on_client_disconnected")
    async def leave(transport: BaseTransport, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """What Pipecat's runner calls for each connection."""
    transport = await create_transport(runner_args, TRANSPORTS)
    sample_rate = 24_000 if isinstance(runner_args, SmallWebRTCRunnerArguments) else 8_000
    async with await asyncio.to_thread(load_engine) as engine:
        await talk(engine, transport, sample_rate, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    with load_engine():  # before the first caller, and kept between calls
        main()
