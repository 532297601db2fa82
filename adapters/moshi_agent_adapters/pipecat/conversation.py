"""What the engine tells of a conversation, as frames for the pipeline."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    EndWorkerFrame,
    InterimTranscriptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    SpeechOutputAudioRawFrame,
    TranscriptionFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.utils.text.base_text_aggregator import TextType
from pipecat.utils.time import time_now_iso8601
from pipecat.utils.tracing.service_decorators import traced_llm

from moshi_agent import (
    AudioChunk,
    Ended,
    Engine,
    Event,
    Session,
    TextToken,
    UserSaid,
    UserStarted,
    UserStopped,
    UserText,
)
from moshi_agent.audio.framing import FRAME_S
from moshi_agent_adapters.bot_turn import BotTurn, begins_turn
from moshi_agent_adapters.pipecat.metrics import MoshiMetricsData
from moshi_agent_adapters.pipecat.playout import Playout
from moshi_agent_adapters.pipecat.whole_words import WholeWords


class ConversationFrames(LLMService):
    """Pushes the frames that the events of a session stand for: the way out of MoshiLLMService.

    In a turn of the bot these are LLMFullResponseStartFrame and TTSStartedFrame, its audio and text, then
    TTSStoppedFrame and LLMFullResponseEndFrame. Audio comes outside of turns as well, as digital silence.

    What the user says, where the engine has a recogniser, goes upstream to where contexts are made of it:
    InterimTranscriptionFrame with all of it so far, and TranscriptionFrame, downstream as well, once the user
    has stopped.
    """

    def __init__(self, *, engine: Engine, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._engine = engine
        self._session: Session | None = None
        self._context = LLMContext()
        self._user_speaks = self._bot_speaks = self._is_muted = False
        self._has_spoken = False  # one of the two: until then, contexts are the application's alone
        self._begin_output(24_000)

    def can_generate_metrics(self) -> bool:
        """Returns True: how long turns take, usage in frames, and MoshiMetricsData.

        There is no time to the first byte: nothing asks a full-duplex model for an answer, and it may begin
        before the user has ended.
        """
        return True

    def _begin_output(self, sample_rate_hz: int) -> None:
        """Before the first event of a conversation."""
        self._playout = Playout(sample_rate_hz)
        self._words = WholeWords()
        self._frames_counted = 0
        self._user_text = ""  # written since the last TranscriptionFrame
        self._why_ended = ""  # for the log

    def _mute(self) -> None:
        """The rest of the bot's turn is not to be heard, nor what of it the transport has still to play."""
        self._is_muted = self._bot_speaks
        self._playout.interrupted()
        self._words.take()

    async def _give_up(self, message: str, error: Exception | None = None) -> None:
        """Says why there can be no conversation, and ends the pipeline."""
        self._why_ended = message
        await self.push_error(message, exception=error, force_treat_as_permanent=True)
        await self.push_frame(EndWorkerFrame(reason=message))

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if begins_turn(event):
                await self._process_context(self._context, events, event)
            else:
                await self._handle(event)

    @traced_llm
    async def _process_context(self, context: LLMContext, events: AsyncIterator[Event], first: Event) -> None:
        """One turn of the bot, which is what a trace calls an LLM run; `context` is what it shows."""
        turn = BotTurn()
        event: Event | None = first
        await self._bot_turn_began()
        try:
            while event is not None:
                await self._handle(event)
                if turn.ends_with(event):
                    break
                event = await anext(events, None)
        finally:
            await self._bot_turn_ended(event)

    async def _bot_turn_began(self) -> None:
        self._bot_speaks = self._has_spoken = True
        await self.start_processing_metrics()
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(TTSStartedFrame())

    async def _bot_turn_ended(self, last: Event | None) -> None:
        self._bot_speaks = self._is_muted = False
        await self._spoke(self._words.take())
        await self.push_frame(TTSStoppedFrame())
        await self.push_frame(LLMFullResponseEndFrame())
        await self.stop_processing_metrics()
        if last is not None:
            await self._report(last.frame)

    async def _handle(self, event: Event) -> None:
        match event:
            case AudioChunk():
                await self._spoke(self._words.complete_by(event.frame))
                await self._speak(event)
            case TextToken():
                await self._write(event)
            case UserStarted():
                await self._user_started()
            case UserStopped():
                await self._user_stopped()
            case UserText():
                await self._hear_user(event.text)
            case UserSaid():
                await self._user_said(event.text)
            case Ended():
                await self._ended(event)
            case _:
                pass

    async def _speak(self, chunk: AudioChunk) -> None:
        if self._is_muted:
            chunk = replace(chunk, pcm=np.zeros_like(chunk.pcm))
        audio = self._playout.admit(chunk, time.monotonic())
        if audio is not None:
            await self.push_frame(SpeechOutputAudioRawFrame(audio, chunk.sample_rate, 1))

    async def _write(self, token: TextToken) -> None:
        if self._is_muted:
            return
        # For those who show the model's text; the context is made of what is spoken, below.
        written = LLMTextFrame(token.text)
        written.append_to_context = False
        await self.push_frame(written)
        await self._spoke(self._words.add(token.text, token.frame))

    async def _spoke(self, word: str) -> None:
        if not word:
            return
        # As WORD, clients such as Pipecat's page would not be told of it.
        spoken = TTSTextFrame(word, text_type=TextType.SENTENCE)
        spoken.includes_inter_frame_spaces = True
        await self.push_frame(spoken)

    async def _user_started(self) -> None:
        self._user_speaks = self._has_spoken = True
        await self.broadcast_frame(ProposedUserStartedSpeakingFrame)

    async def _user_stopped(self) -> None:
        if self._user_speaks:
            self._user_speaks = False
            await self.broadcast_frame(ProposedUserStoppedSpeakingFrame)

    async def _hear_user(self, text: str) -> None:
        self._user_text += text
        if self._user_text.strip():
            so_far = InterimTranscriptionFrame(self._user_text.strip(), "", time_now_iso8601())
            await self.push_frame(so_far, FrameDirection.UPSTREAM)

    async def _user_said(self, text: str) -> None:
        self._user_text = ""
        await self.broadcast_frame(
            TranscriptionFrame, text=text, user_id="", timestamp=time_now_iso8601(), finalized=True
        )

    async def _ended(self, event: Ended) -> None:
        """The engine has ended a conversation that was to go on."""
        await self._give_up(
            f"the conversation was ended ({event.reason}){': ' if event.error else ''}{event.error or ''}"
        )

    # Metrics

    async def _report(self, frame: int) -> None:
        """Usage and the engine's figures: a frame is a token heard and a token spoken."""
        frames, self._frames_counted = frame - self._frames_counted, frame
        usage = LLMTokenUsage(
            prompt_tokens=frames,
            completion_tokens=frames,
            total_tokens=2 * frames,
            input_audio_tokens=frames,
            output_audio_tokens=frames,
        )
        await self.start_llm_usage_metrics(usage)
        if self.metrics_enabled:
            await self.push_frame(MetricsFrame(data=[await self._engine_figures()]))

    async def _engine_figures(self) -> MoshiMetricsData:
        step_s = (await self._engine.metrics_async()).step_s.p50
        return MoshiMetricsData(
            processor=self.name,
            model=self._engine.config.source,
            step_s=step_s,
            real_time_factor=step_s / FRAME_S,
            backlog_s=0.0 if self._session is None else self._session.backlog_s,
            dropped_silence_s=self._playout.dropped_s,
        )
