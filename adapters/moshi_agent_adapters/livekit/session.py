"""One conversation, as LiveKit holds it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from livekit import rtc
from livekit.agents import get_job_context, llm
from livekit.agents.metrics.base import Metadata, RealtimeModelMetrics
from livekit.agents.types import NOT_GIVEN, NotGivenOr
from livekit.agents.utils import is_given

from moshi_agent import (
    AudioChunk,
    BacklogFull,
    Ended,
    Event,
    Interrupted,
    TextToken,
    UserSaid,
    UserStarted,
    UserStopped,
    UserText,
)
from moshi_agent_adapters.livekit.bot_speech import BotSpeech
from moshi_agent_adapters.livekit.delegation import Delegation
from moshi_agent_adapters.livekit.engine_call import EngineCall
from moshi_agent_adapters.livekit.turn_gate import IN_TURN
from moshi_agent_adapters.livekit.user_speech import UserSpeech

if TYPE_CHECKING:
    from moshi_agent import Session
    from moshi_agent_adapters.livekit.model import MoshiModel

# `engine_event` brings every event of the engine, `reply_failed` why an expected reply will not come.
Extra = Literal["engine_event", "reply_failed"]


class MoshiSession(llm.DuplexSession[Extra]):
    """Holds one conversation of an AgentSession. `Agent.duplex_session` gives it to an application.

    LiveKit reads `audio_stream`, and everything else is told on the way: nothing is out of order.
    """

    def __init__(self, model: MoshiModel) -> None:
        super().__init__(model)
        self._model = model
        self._call = EngineCall()
        self._tools = llm.ToolContext.empty()
        self._user = UserSpeech()
        self._bot = BotSpeech()
        self._was_in_turn = False  # the last frame
        self._reply_is_awaited = False  # by LiveKit, until a turn of the bot begins
        self._waiting_calls: list[llm.FunctionCall] = []
        self._delegation = None if model.backend is None else Delegation(model.backend, self)

    @property
    def tools(self) -> llm.ToolContext:
        """What the backend may call."""
        return self._tools

    @property
    def call(self) -> Session:
        """The engine's session. Raises SessionClosed before LiveKit has opened it."""
        return self._call.session

    # Beginning and end

    async def _update_session(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        chat_ctx: NotGivenOr[llm.ChatContext] = NOT_GIVEN,
        tools: NotGivenOr[list[llm.Tool]] = NOT_GIVEN,
    ) -> None:
        """Configures the conversation and, the first time, opens it.

        Raises:
            EngineFull, EngineUnhealthy, InputError: as `Session.open`; the AgentSession does not start.
        """
        if not self._call.has_begun:
            await self._open(instructions if is_given(instructions) else "")
        await super()._update_session(instructions=instructions, chat_ctx=chat_ctx, tools=tools)

    async def _open(self, instructions: str) -> None:
        config, began = self._model.session_config(instructions), time.monotonic()
        self._role = config.role
        await self._call.open(self._model.engine, config)
        self._report_connection_acquired(time.monotonic() - began)

    async def aclose(self) -> None:
        """Ends the conversation. May be called again."""
        await super().aclose()
        if self._delegation is not None:
            await self._delegation.aclose()
        self._call.close()

    # Audio

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Gives Moshi something to hear. Before the beginning and after the end nobody hears it."""
        try:
            self._call.push(frame)
        except BacklogFull as error:
            self._model.warn_once("backlog", f"{error}; such input is not heard")

    @property
    def audio_stream(self) -> AsyncIterator[llm.DuplexAudioFrame]:
        """What Moshi says, and its silence. It may be read once."""
        return self._read()

    async def _read(self) -> AsyncIterator[llm.DuplexAudioFrame]:
        await self._configured.wait()
        if not self._call.has_begun:
            return
        async for event in self._call.session:
            self.emit("engine_event", event)
            turn_is_over = self._bot.follow(event)
            if isinstance(event, AudioChunk):
                deltas, frame = self._bot.speak(event)
                for delta in deltas:
                    self.emit("transcript_delta", delta)
                if self._waiting_calls:
                    frame.frame.userdata[IN_TURN] = True
                yield frame
                self._handed_over(frame.frame)
            else:
                self._tell(event)
            if turn_is_over:
                self._turn_ended(was_interrupted=isinstance(event, Interrupted))

    def _handed_over(self, frame: rtc.AudioFrame) -> None:
        """LiveKit has taken a frame: where a turn begins with it, for the reply that it awaits."""
        is_in_turn = frame.userdata[IN_TURN]
        if is_in_turn and not self._was_in_turn:
            self._reply_is_awaited = False
        self._was_in_turn = is_in_turn
        if is_in_turn:
            calls, self._waiting_calls = self._waiting_calls, []
            for call in calls:
                self.emit("function_call", call)

    def _tell(self, event: Event) -> None:
        match event:
            case TextToken():
                for delta in self._bot.write(event):
                    self.emit("transcript_delta", delta)
            case UserStarted():
                self.emit("input_speech_started", llm.InputSpeechStartedEvent())
            case UserStopped():
                self.emit("input_speech_stopped", llm.InputSpeechStoppedEvent(self._transcribes))
            case UserText():
                if transcript := self._user.interim(event):
                    self.emit("input_audio_transcription_completed", transcript)
            case UserSaid():
                self._user_said(event)
            case Ended():
                self._ended(event)
            case _:
                pass

    @property
    def _transcribes(self) -> bool:
        return self.capabilities.user_transcription

    def _user_said(self, event: UserSaid) -> None:
        transcript = self._user.final(event)
        self.emit("input_audio_transcription_completed", transcript)
        if self._delegation is not None:
            delegate = self._model.delegate
            self._delegation.user_said(transcript, is_for_backend=delegate is None or delegate(event.text))

    def _turn_ended(self, *, was_interrupted: bool) -> None:
        if was_interrupted:
            self._interrupt_speech()
        if self._delegation is not None and self._bot.text:
            self._delegation.bot_said(self._bot.text, self._bot.began_at)
        if self._bot.frames:
            self._report(was_interrupted)

    def _interrupt_speech(self) -> None:
        """Shows in the AgentSession that Moshi has let itself be interrupted: nothing else would tell it."""
        context = get_job_context(required=False)
        if context is None:
            return
        with suppress(
            RuntimeError
        ):  # no session was started, it runs another model, or may not be interrupted
            session = context.primary_session
            if session.current_agent.duplex_session is self and session.current_speech is not None:
                session.current_speech.interrupt()

    def _ended(self, event: Ended) -> None:
        """The engine has ended a conversation that was to go on, unless it was closed here."""
        if not self._closing:
            self.fail(self._call.lost(event, "conversation"), recoverable=False)

    def fail(self, error: Exception, *, recoverable: bool) -> None:
        """Tells the AgentSession of an error; one that is not recoverable closes it."""
        event = llm.RealtimeModelError(
            timestamp=time.time(), label=self._model.label, error=error, recoverable=recoverable
        )
        self.emit("reply_failed", str(error))
        self.emit("error", event)

    # What it is told to do

    async def say(self, text: str) -> None:
        """Makes Moshi speak a sentence now, and nothing of its own right after it.

        Raises:
            InputError: the model has no pieces for it.
            SessionClosed: the conversation is over, or has not begun.
        """
        call = self.call
        if self._bot.cut():
            self._turn_ended(was_interrupted=False)
        await asyncio.wrap_future(call.say(text, at_once=True, alone=True))

    async def hold(self, seconds: float) -> None:
        """Makes Moshi listen and say nothing of its own for so long; 0 releases it. See `Session.hold`."""
        await asyncio.wrap_future(self.call.hold(seconds))

    def call_function(self, call: llm.FunctionCall) -> None:
        """Has LiveKit run a tool; its output comes back as a new item of the chat context.

        A call alone would be queued behind a reply that LiveKit awaits, and that reply awaits the output. So
        it waits for the next frame, which is made the beginning of the reply.
        """
        if self._reply_is_awaited:
            self._waiting_calls.append(call)
        else:
            self.emit("function_call", call)

    async def _update_instructions(self, instructions: str) -> None:
        if self._delegation is not None:
            self._delegation.instructions = instructions
        if self._model.engine.model.takes_roles:
            if self._role != (instructions.strip() or None) and self._role is not None:
                self._model.warn_once("role", "a role is one of a whole call: another has no effect in it")
        elif instructions.strip() and self._delegation is None:
            self._model.warn_once(
                "instructions",
                f"{self._model.model} was not trained to take a role: instructions have no effect",
            )

    async def _append_items(self, items: list[llm.ChatItem]) -> None:
        if self._delegation is not None:
            self._delegation.append(items)
        elif any(isinstance(item, llm.ChatMessage) and item.role != "system" for item in items):
            self._model.warn_once(
                "context", "Moshi hears, and cannot read: messages in the chat context do not reach it"
            )

    async def _update_tools(self, tools: list[llm.Tool]) -> None:
        self._tools = llm.ToolContext(tools)
        if tools and self._delegation is None:
            self._model.warn_once(
                "tools", "Moshi calls no functions: tools need a backend, MoshiModel(engine, backend=...)"
            )

    def _update_options(self, *, tool_choice: NotGivenOr[llm.ToolChoice | None] = NOT_GIVEN) -> None:
        if self._delegation is not None and is_given(tool_choice):
            self._delegation.tool_choice = tool_choice

    def _generate_reply(
        self,
        *,
        instructions: NotGivenOr[str] = NOT_GIVEN,
        tool_choice: NotGivenOr[llm.ToolChoice] = NOT_GIVEN,
        tools: NotGivenOr[list[llm.Tool]] = NOT_GIVEN,
    ) -> None:
        """Has the backend write what Moshi is to say.

        Raises:
            RealtimeError: there is none.
        """
        if self._delegation is None:
            raise llm.RealtimeError(
                "Moshi decides for itself when to speak and what to say; accepted: a backend that writes the "
                "reply, MoshiModel(engine, backend=...), or `session.say(text)` with RealtimeModel"
            )
        self._reply_is_awaited = True
        self._delegation.ask(instructions if is_given(instructions) else None)

    # Metrics

    def _report(self, was_cut: bool) -> None:
        """Usage of a turn: a frame is a token heard and a token spoken."""
        frames = self._bot.frames
        details = RealtimeModelMetrics
        self.emit(
            "metrics_collected",
            RealtimeModelMetrics(
                label=self._model.label,
                request_id="",
                timestamp=self._bot.began_at,
                duration=time.time() - self._bot.began_at,
                cancelled=was_cut,
                input_tokens=frames,
                output_tokens=frames,
                total_tokens=2 * frames,
                tokens_per_second=12.5,
                input_token_details=details.InputTokenDetails(audio_tokens=frames),
                output_token_details=details.OutputTokenDetails(audio_tokens=frames),
                metadata=Metadata(model_name=self._model.model, model_provider=self._model.provider),
            ),
        )
