"""MoshiLLMService inside real pipelines, with the built-in model, in real time."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from loguru import logger
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InputTextRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    LLMUpdateSettingsFrame,
    MetricsFrame,
    SpeechOutputAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import LLMUsageMetricsData, ProcessingMetricsData
from pipecat.pipeline.worker import PipelineParams
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.audio.audio_buffer_processor import AudioBufferProcessor
from pipecat.tests.utils import SleepFrame, run_test
from pipecat.workers.llm.backend_llm_worker import BackendLLMWorker

from moshi_agent import Engine, SessionConfig
from moshi_agent.engine.snapshot import unpack_snapshot
from moshi_agent_adapters.pipecat import MoshiLLMService, MoshiMetricsData
from tests.adapters.pipecat.pipecat_calls import Caller, Loudspeaker, Notes, call_pipeline, until

pytestmark = pytest.mark.real_time

RATE_HZ = 16_000
PARAMS = PipelineParams(
    audio_in_sample_rate=RATE_HZ,
    audio_out_sample_rate=RATE_HZ,
    enable_metrics=True,
    enable_usage_metrics=True,
)
GREETING = "Hello, this is Moshi. How can I help you?"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Two rows of `tiny`, shared by all the pipelines here."""
    with Engine.load("tiny", device="cpu", capacity=2, admit_by_time=False) as engine:
        yield engine


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is logged as a warning, or worse."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(str(message)), level="WARNING")
    yield messages
    logger.remove(sink)


@pytest.fixture
def ends() -> Iterator[list[Any]]:
    """The records about conversations that have ended."""
    records: list[Any] = []
    sink = logger.add(lambda message: records.append(message.record), filter=_is_an_end)
    yield records
    logger.remove(sink)


def _is_an_end(record: Any) -> bool:
    return record["message"].startswith("call ended")


def of(frames: Any, *kinds: type[Frame]) -> list[Any]:
    return [frame for frame in frames if isinstance(frame, kinds)]


def greeter(engine: Engine) -> MoshiLLMService:
    return MoshiLLMService(engine=engine, session=SessionConfig(seed=1, greet=True))


def quiet() -> list[Frame]:
    """100 ms of silence, for what need not go on in real time."""
    return [InputAudioRawFrame(bytes(RATE_HZ // 5), RATE_HZ, 1), SleepFrame(sleep=0.1)]


@dataclass
class CallRecord:
    """What a call has left behind."""

    context: LLMContext = field(default_factory=LLMContext)
    notes: Notes = field(default_factory=Notes)
    speaker: Loudspeaker = field(default_factory=Loudspeaker)
    user_track: bytes = b""
    bot_track: bytes = b""
    live_sessions: int = 0


async def question_and_answer(engine: Engine, asked: str) -> CallRecord:
    """A pipeline with everything that Pipecat's users put around a service; one question, one answer."""
    record = CallRecord()
    pair = LLMContextAggregatorPair(record.context)
    recorder = AudioBufferProcessor(num_channels=2, auto_start_recording=True)
    llm = MoshiLLMService(engine=engine, session=SessionConfig(seed=1))

    @recorder.event_handler("on_track_audio_data")
    async def _(recorder: object, user: bytes, bot: bytes, rate_hz: int, channels: int) -> None:
        record.user_track, record.bot_track = user, bot

    async def script(caller: Caller) -> None:
        await caller.ask(asked)
        await caller.hear(LLMFullResponseEndFrame)
        await caller.hear(BotStoppedSpeakingFrame)
        await until(lambda: bool(record.context.get_messages()))
        record.live_sessions = engine.metrics().live_sessions
        await recorder.stop_recording()

    processors = [pair.user(), llm, record.speaker, recorder, pair.assistant()]
    record.notes = await call_pipeline(processors, script, PARAMS, enable_rtvi=True)
    await until(lambda: engine.metrics().live_sessions == 0)
    return record


@pytest.fixture(scope="module")
def call(engine: Engine) -> CallRecord:
    return asyncio.run(question_and_answer(engine, "Hello there."))


class TestInAPipeline:
    def test_the_assistant_context_holds_what_the_bot_said(self, call: CallRecord) -> None:
        said = {"role": "assistant", "content": "Hello! It is nice to talk with you."}
        assert call.context.get_messages() == [said]

    def test_turns_of_both_sides_are_told_and_nothing_is_interrupted(self, call: CallRecord) -> None:
        kinds = [
            *(UserStartedSpeakingFrame, UserStoppedSpeakingFrame),
            *(BotStartedSpeakingFrame, BotStoppedSpeakingFrame),
        ]
        order = [kinds.index(type(frame)) for frame in call.notes.of(*kinds)]
        assert list(dict.fromkeys(order)) in ([0, 1, 2, 3], [0, 2, 1, 3])
        assert not call.notes.of(InterruptionFrame, ErrorFrame)

    def test_audio_comes_in_whole_frames_at_the_rate_of_the_transport(self, call: CallRecord) -> None:
        audio = call.notes.of(SpeechOutputAudioRawFrame)
        milliseconds = [len(frame.audio) * 1000 / 2 / RATE_HZ for frame in audio]
        assert set(milliseconds) == {80, 40}  # from the service, and as the transport has cut it
        assert milliseconds.count(40) == pytest.approx(2 * milliseconds.count(80), abs=8)
        assert all(frame.sample_rate == RATE_HZ for frame in audio)

    def test_the_recorder_has_both_sides_in_their_time(self, call: CallRecord) -> None:
        user, bot = (
            np.frombuffer(track, np.int16).astype(np.float64) / 32768
            for track in (call.user_track, call.bot_track)
        )
        asked = np.flatnonzero(np.abs(user) > 0.05)[-1] / RATE_HZ
        answered = np.flatnonzero(np.abs(bot) > 0.05)[0] / RATE_HZ
        assert 0 < answered - asked < 3
        assert bot[bot != 0].std() > 0.02

    def test_a_client_is_told_the_bots_words(self, call: CallRecord) -> None:
        messages = call.speaker.messages
        kinds = {message["type"] for message in messages}
        assert {"bot-started-speaking", "bot-stopped-speaking", "user-started-speaking"} <= kinds
        for kind in ("bot-llm-text", "bot-tts-text", "bot-output"):
            texts = [message["data"]["text"] for message in messages if message["type"] == kind]
            assert "".join(texts).strip() == "Hello! It is nice to talk with you.", kind

    def test_metrics_tell_usage_and_how_the_engine_keeps_up(self, call: CallRecord) -> None:
        data = [entry for frame in call.notes.of(MetricsFrame) for entry in frame.data]
        usage = [entry.value for entry in data if isinstance(entry, LLMUsageMetricsData)]
        (figures,) = [entry for entry in data if isinstance(entry, MoshiMetricsData)]
        assert 40 < usage[0].prompt_tokens == usage[0].completion_tokens < 120
        assert figures.step_s > 0
        assert figures.real_time_factor == pytest.approx(figures.step_s / 0.08)
        assert max(entry.value for entry in data if isinstance(entry, ProcessingMetricsData)) > 1.0


def test_two_pipelines_share_an_engine_and_leave_it(engine: Engine) -> None:
    async def both() -> list[CallRecord]:
        asked = ("Thank you very much.", "How much is two plus two?")
        return await asyncio.gather(*(question_and_answer(engine, text) for text in asked))

    calls = asyncio.run(both())
    answers = [record.context.get_messages()[0]["content"] for record in calls]
    assert answers == ["You are very welcome.", "Two and two make four."]
    assert max(record.live_sessions for record in calls) == 2


class TestFrames:
    def test_a_turn_is_framed_and_its_text_comes_twice(self, engine: Engine) -> None:
        async def script(caller: Caller) -> None:
            await caller.hear(LLMFullResponseEndFrame)

        notes = asyncio.run(call_pipeline([greeter(engine)], script, PARAMS))
        marks = (LLMFullResponseStartFrame, TTSStartedFrame, TTSStoppedFrame, LLMFullResponseEndFrame)
        assert [type(frame) for frame in notes.of(*marks)] == list(marks)
        shown, spoken = notes.of(LLMTextFrame), notes.of(TTSTextFrame)
        assert "".join(frame.text for frame in shown).strip() == GREETING
        assert "".join(frame.text for frame in spoken).strip() == GREETING
        assert not any(frame.append_to_context for frame in shown)
        assert all(frame.append_to_context and frame.includes_inter_frame_spaces for frame in spoken)

    def test_input_is_passed_on_and_setting_up_takes_no_time(self, engine: Engine, ends: list[Any]) -> None:
        began = time.monotonic()
        frames = [*quiet(), *quiet()]
        down, up = asyncio.run(run_test(MoshiLLMService(engine=engine), frames_to_send=frames))
        assert time.monotonic() - began < 1.2
        assert len(of(down, InputAudioRawFrame)) == 2
        assert not of(up, ErrorFrame)
        (end,) = ends
        assert end["level"].name == "INFO"
        assert end["extra"]["session"] > 0
        assert re.fullmatch(
            r"call ended after \d\.\d s \(MoshiLLMService#\d+, session \d+\): the pipeline ended",
            end["message"],
        )

    def test_a_full_engine_ends_the_pipeline_with_an_error(self, engine: Engine, ends: list[Any]) -> None:
        async def third_call() -> tuple[Any, Any]:
            async with engine.session(), engine.session():
                llm = MoshiLLMService(engine=engine)
                return await run_test(llm, frames_to_send=quiet(), send_end_frame=False)

        _, up = asyncio.run(asyncio.wait_for(third_call(), 20))
        (error,) = of(up, ErrorFrame)
        assert "no row is free: 2 conversations, capacity 2" in error.error
        assert [end["extra"]["reason"] for end in ends] == ["no row is free: 2 conversations, capacity 2"]

    def test_an_engine_that_closes_ends_the_pipeline_with_an_error(self, ends: list[Any]) -> None:
        async def call_that_loses_its_engine() -> tuple[Any, Any]:
            engine = Engine.load("tiny", device="cpu", capacity=1, shared=False).start()

            async def close() -> None:
                await until(lambda: engine.metrics().live_sessions == 1)
                await engine.aclose()

            llm = MoshiLLMService(engine=engine)
            down_up, _ = await asyncio.gather(
                run_test(llm, frames_to_send=quiet(), send_end_frame=False), close()
            )
            return down_up

        _, up = asyncio.run(asyncio.wait_for(call_that_loses_its_engine(), 30))
        assert of(up, ErrorFrame)[0].error == "the conversation was ended (closed)"
        assert [end["extra"]["reason"] for end in ends] == ["the conversation was ended (closed)"]

    def test_it_says_what_it_is_asked_to_say(self, engine: Engine) -> None:
        async def script(caller: Caller) -> None:
            await caller.worker.queue_frame(TTSSpeakFrame("You are very welcome."))
            await caller.hear(LLMFullResponseEndFrame)

        llm = MoshiLLMService(engine=engine, session=SessionConfig(seed=1))
        notes = asyncio.run(call_pipeline([llm], script, PARAMS))
        text = "".join(frame.text for frame in notes.of(TTSTextFrame)).strip()
        assert text.startswith("You are very welcome.")

    def test_an_interruption_mutes_the_rest_of_the_turn(self, engine: Engine) -> None:
        async def script(caller: Caller) -> None:
            await caller.hear(TTSTextFrame, times=4)
            await caller.worker.queue_frame(InterruptionFrame())
            await caller.hear(LLMFullResponseEndFrame)

        notes = asyncio.run(call_pipeline([greeter(engine)], script, PARAMS))
        frames = notes.frames
        at = next(i for i, frame in enumerate(frames) if isinstance(frame, InterruptionFrame))
        after = of(frames[at + 2 :], SpeechOutputAudioRawFrame)  # one may have been on its way
        assert any(any(frame.audio) for frame in of(frames[:at], SpeechOutputAudioRawFrame))
        assert len(after) > 10
        assert not any(any(frame.audio) for frame in after)
        assert not of(frames[at + 2 :], TTSTextFrame)

    def test_text_that_it_cannot_hear_is_passed_on_with_one_warning(
        self, engine: Engine, warnings: list[str]
    ) -> None:
        frames = [InputTextRawFrame("hello"), InputTextRawFrame("hello?"), SleepFrame(sleep=0.1)]
        down, _ = asyncio.run(run_test(MoshiLLMService(engine=engine), frames_to_send=frames))
        assert len(of(down, InputTextRawFrame)) == 2
        assert len([message for message in warnings if "cannot read" in message]) == 1

    def test_what_a_context_holds_besides_a_role_is_warned_about_once(
        self, engine: Engine, warnings: list[str]
    ) -> None:
        said = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]
        context = LLMContext(said, tools=[FunctionSchema("look_up", "Looks a city up.", {}, [])])
        frames = [LLMContextFrame(context), *quiet(), LLMContextFrame(context), *quiet()]
        asyncio.run(run_test(MoshiLLMService(engine=engine), frames_to_send=frames))
        for reason in ("cannot read", "calls no functions"):
            assert len([message for message in warnings if reason in message]) == 1

    def test_it_declines_to_work_for_another_model(self, engine: Engine) -> None:
        with pytest.raises(ValueError, match="cannot be an LLMWithBackend backend"):
            BackendLLMWorker(llm=MoshiLLMService(engine=engine))

    def test_a_reset_begins_another_conversation(self, engine: Engine) -> None:
        llm = greeter(engine)

        async def script(caller: Caller) -> None:
            await caller.hear(TTSTextFrame, times=3)
            opened = engine.metrics().opened_sessions
            await llm.reset_conversation()
            await until(lambda: engine.metrics().opened_sessions == opened + 1)
            await caller.hear(LLMFullResponseEndFrame, times=2)

        notes = asyncio.run(call_pipeline([llm], script, PARAMS))
        turns = notes.of(LLMFullResponseStartFrame, LLMFullResponseEndFrame)
        assert [type(turn) for turn in turns] == [LLMFullResponseStartFrame, LLMFullResponseEndFrame] * 2
        second = notes.frames[notes.frames.index(turns[2]) :]
        assert "".join(frame.text for frame in of(second, TTSTextFrame)).strip() == GREETING


class TestSettings:
    def test_sampling_changes_on_the_live_row(self, engine: Engine) -> None:
        settings = MoshiLLMService.Settings(temperature=0.9, text_top_k=7)
        llm = MoshiLLMService(engine=engine, settings=settings, session=SessionConfig(seed=3))
        seen: list[Any] = []

        async def look() -> None:
            assert llm._session is not None
            seen.append(unpack_snapshot(await llm._session.snapshot()).sampling)

        async def script(caller: Caller) -> None:
            await caller.hear(SpeechOutputAudioRawFrame)
            await look()
            delta = MoshiLLMService.Settings(temperature=0.4, seed=9)
            await caller.worker.queue_frame(LLMUpdateSettingsFrame(delta=delta))
            await until(lambda: llm.settings.temperature == 0.4)
            await caller.be_silent(0.2)
            await look()

        asyncio.run(call_pipeline([llm], script, PARAMS))
        before, after = seen
        assert (before.temp, before.top_k_text, before.seed) == (0.9, 7, 3)
        assert (after.temp, after.top_k_text, after.seed) == (0.4, 7, 3)

    def test_prompts_that_the_checkpoint_does_not_take_are_warned_about_once(
        self, engine: Engine, warnings: list[str]
    ) -> None:
        context = LLMContext([{"role": "system", "content": "You are a pirate."}])
        llm = MoshiLLMService(engine=engine, settings=MoshiLLMService.Settings(voice="low"))
        frames = [LLMContextFrame(context), *quiet(), LLMContextFrame(context), *quiet()]
        asyncio.run(run_test(llm, frames_to_send=frames))
        assert len([message for message in warnings if "role or a voice" in message]) == 1

    def test_all_settings_have_a_value_and_meaningless_ones_are_named(
        self, engine: Engine, warnings: list[str]
    ) -> None:
        llm = MoshiLLMService(engine=engine, settings=MoshiLLMService.Settings(max_tokens=5))
        llm.settings.validate_complete()
        assert [message for message in warnings if "max_tokens have no meaning" in message]
        assert not [message for message in warnings if "NOT_GIVEN" in message]


def test_a_turn_of_the_bot_is_a_span_of_a_trace(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)

    async def script(caller: Caller) -> None:
        await caller.hear(LLMFullResponseEndFrame)

    asyncio.run(call_pipeline([greeter(engine)], script, PARAMS, enable_tracing=True))
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "llm"]
    assert span.attributes is not None
    assert span.attributes["gen_ai.request.model"] == "tiny"
    assert str(span.attributes["output"]).strip() == GREETING
