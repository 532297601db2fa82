"""A bot for the browser or the telephone, on Pipecat's runner.

    pip install "moshi-agent[pipecat]"
    python examples/pipecat_bot.py

Open http://localhost:7860, press Connect, and ask one of the built-in model's questions, as shown by
`moshi-agent run --list-questions`. For a telephone provider (twilio, telnyx, plivo, exotel):

    python examples/pipecat_bot.py -t twilio -x your-host.example.com

With the provider's keys in the environment (TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, TELNYX_API_KEY,
PLIVO_AUTH_ID and PLIVO_AUTH_TOKEN) the bot hangs up when it ends a call; without them it closes the stream.
MOSHI_MODEL names another checkpoint, such as kyutai/moshiko-pytorch-bf16, and MOSHI_CALLS says how many may
call at once.
"""

import asyncio
import os
from typing import Any

from pipecat.frames.frames import LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.runner.types import (
    CallData,
    RunnerArguments,
    SmallWebRTCRunnerArguments,
    WebSocketRunnerArguments,
)
from pipecat.runner.utils import create_transport, parse_telephony_websocket
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.serializers.plivo import PlivoFrameSerializer
from pipecat.serializers.telnyx import TelnyxFrameSerializer
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

from moshi_agent import Engine, SessionConfig
from moshi_agent_adapters.pipecat import MoshiLLMService
from moshi_agent_adapters.pipecat.telephone import TelephoneParams

CALLS = int(os.environ.get("MOSHI_CALLS", "4"))  # at once
# The first of the keys with which the bot may hang up, as Pipecat looks for them.
KEYS = {"twilio": "TWILIO_ACCOUNT_SID", "telnyx": "TELNYX_API_KEY", "plivo": "PLIVO_AUTH_ID"}


def load_engine() -> Engine:
    """The engine that all calls share: loaded once, by whoever is first."""
    return Engine.load(os.environ.get("MOSHI_MODEL", "tiny"), capacity=CALLS)


def phone(**options: Any) -> TelephoneParams:
    return TelephoneParams(
        audio_in_enabled=True, audio_out_enabled=True, audio_out_end_silence_secs=0, **options
    )


def exotel() -> TelephoneParams:
    """Exotel wants 3200 bytes at once, or more, in multiples of 320: this is 200 ms."""
    return phone(audio_out_10ms_chunks=20)


def browser() -> TransportParams:
    return TransportParams(audio_in_enabled=True, audio_out_enabled=True)


TRANSPORTS = {"webrtc": browser, "twilio": phone, "telnyx": phone, "plivo": phone, "exotel": exotel}


def without_keys(provider: str, call: CallData) -> FrameSerializer:
    """The provider's protocol, for a bot that cannot hang up."""
    match provider:
        case "twilio":
            off = TwilioFrameSerializer.InputParams(auto_hang_up=False)
            return TwilioFrameSerializer(call["stream_id"], params=off)
        case "telnyx":
            off = TelnyxFrameSerializer.InputParams(auto_hang_up=False)
            return TelnyxFrameSerializer(call["stream_id"], call["outbound_encoding"], "PCMU", params=off)
        case _:
            off = PlivoFrameSerializer.InputParams(auto_hang_up=False)
            return PlivoFrameSerializer(call["stream_id"], params=off)


async def connect(runner_args: RunnerArguments) -> BaseTransport:
    """The transport of a call. Pipecat's own function refuses calls of providers whose keys it has not."""
    if isinstance(runner_args, WebSocketRunnerArguments) and runner_args.transport_type != "websocket":
        provider, call = await parse_telephony_websocket(runner_args.websocket)
        if provider in KEYS and not os.environ.get(KEYS[provider]):
            params = phone(serializer=without_keys(provider, call))
            return FastAPIWebsocketTransport(runner_args.websocket, params)
    return await create_transport(runner_args, TRANSPORTS)


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
    transport = await connect(runner_args)
    sample_rate = 24_000 if isinstance(runner_args, SmallWebRTCRunnerArguments) else 8_000
    async with await asyncio.to_thread(load_engine) as engine:
        await talk(engine, transport, sample_rate, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    with load_engine():  # before the first caller, and kept between calls
        main()
