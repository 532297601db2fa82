"""The pipeline component."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from numpy.typing import NDArray
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputTextRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMServiceMetadataFrame,
    LLMUpdateSettingsFrame,
    TTSSpeakFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.llm_service import LLMWithBackendRole
from pipecat.services.settings import LLMSettings
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies

from moshi_agent import (
    BacklogFull,
    ConfigError,
    Engine,
    Event,
    MoshiAgentError,
    ReferenceEnded,
    ReferenceWanted,
    Session,
    SessionClosed,
    SessionConfig,
)
from moshi_agent.engine.prompt.prompt import Recording
from moshi_agent.engine.reference_desk import OnReference
from moshi_agent.text.transcript import Transcript
from moshi_agent_adapters.call_log import CallLog
from moshi_agent_adapters.pipecat.context import ignored_in, role_in
from moshi_agent_adapters.pipecat.conversation import ConversationFrames
from moshi_agent_adapters.pipecat.delegation import ClientDelegation, Delegations
from moshi_agent_adapters.pipecat.frames import mono
from moshi_agent_adapters.pipecat.settings import (
    SAMPLING_FIELDS,
    UNSUPPORTED_FIELDS,
    MoshiLLMSettings,
    complete,
)

_NEVER_MS = 60_000.0  # the engine's own drift control would leave out parts of frames: `Playout` does it here


class MoshiLLMService(ConversationFrames):
    """Runs Moshi as a Pipecat service: full duplex, audio in and audio out.

    It stands where a cascade has speech-to-text, LLM and text-to-speech. It hears all the time and speaks
    when it wants to: nothing triggers an answer, and no voice activity detection is needed. Its conversation
    begins with the first audio, LLMContextFrame or TTSSpeakFrame.

    Moshi hears; it cannot read. Text of the user (InputTextRawFrame, messages and tools of the context that
    a call begins with) does not reach it, of which it warns once. What TTSSpeakFrame brings it speaks word
    for word. Of what the user says there is a transcript if the engine was loaded with a `transcriber`; else
    put a speech-to-text service before this.

    A model that takes roles, as PersonaPlex does, begins with the role and the voice of the settings, or with
    the system message of the context; any other warns once that it takes none.

    On an InterruptionFrame, which is nothing that a user's voice causes here, the rest of the bot's turn is
    muted: Moshi itself cannot be told to stop.

    Args:
        engine: Loaded, and best started, before: all pipelines of a process share it, and none closes it.
        settings: Sampling and prompts, see MoshiLLMSettings.
        session: Everything else about the conversation, such as `greet=True`. Rates and pace are set here.
        on_reference: An async function that looks up what the conversation asks for
            (`SessionConfig.asking`), as for `Engine.session`.
        delegation: A worker of Pipecat's that answers what the user says, with its tools, in Moshi's voice:
            `MoshiLLMService.ClientDelegation`. The engine has to have a `transcriber`.
        **kwargs: Arguments of LLMService.

    The event handler `on_delegation_created` is called with each `ReferenceWanted` that is delegated.
    """

    Settings = MoshiLLMSettings
    ClientDelegation = ClientDelegation
    _settings: MoshiLLMSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        *,
        engine: Engine,
        settings: MoshiLLMSettings | None = None,
        session: SessionConfig | None = None,
        on_reference: OnReference | None = None,
        delegation: ClientDelegation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(engine=engine, settings=complete(settings, model=engine.config.source), **kwargs)
        self._config = session or SessionConfig()
        self._on_reference = on_reference
        self._delegations = None if delegation is None else self._delegate(delegation)
        self._transcript = Transcript()
        self._conversation: asyncio.Task[None] | None = None
        self._is_over = False  # the pipeline has ended
        self._role: str | None = None  # of the conversation
        self._to_say: list[str] = []  # asked for before the conversation has begun
        self._sample_rate_hz = 24_000
        self._warned: set[str] = set()
        ignored = [name for name in UNSUPPORTED_FIELDS if getattr(self._settings, name) is not None]
        if ignored:
            self._warn_once("settings", f"{', '.join(ignored)} have no meaning for Moshi and are ignored")

    @property
    def transcript(self) -> Transcript:
        """Returns what both sides of the conversation, or of the last one, have said."""
        return self._transcript

    def service_metadata_frame(self) -> LLMServiceMetadataFrame:
        """Recommends turns as proposed by this service, and no interruption at the user's voice."""
        return LLMServiceMetadataFrame(
            service_name=self.name,
            is_realtime_service=True,
            user_turn_strategies=ExternalUserTurnStrategies(enable_interruptions=False),
        )

    def llm_with_backend_role_objection(self, role: LLMWithBackendRole) -> str | None:
        """Declines both roles of an LLMWithBackend."""
        return (
            f"{type(self).__name__} cannot be an LLMWithBackend {role}: Moshi hears and speaks, but reads no "
            "requests and calls no functions. Give it a delegation instead: MoshiLLMService.ClientDelegation"
        )

    def _delegate(self, delegation: ClientDelegation) -> Delegations:
        """Prepares for answers of a worker. Raises ConfigError where none can be asked for."""
        if self._on_reference is not None or self._config.asking is not None:
            raise ConfigError("delegation goes without on_reference and SessionConfig.asking: it sets both")
        if self._engine.model.transcriber is None:
            raise ConfigError(
                "delegation is about what the user says, and nothing writes it down; accepted: "
                "Engine.load(..., transcriber=...)"
            )
        takes_references = self._engine.model.references is not None
        references = self._config.references if takes_references else "say"
        self._config = replace(self._config, asking=delegation.asking, references=references)
        self._register_event_handler("on_delegation_created")
        delegations = Delegations(self, delegation)
        self._on_reference = delegations.answer
        return delegations

    # Beginning and end

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Takes the transport's rate. The engine starts here if nobody has started it."""
        await super().setup(setup)
        self._sample_rate_hz = setup.audio_out_sample_rate
        if self._delegations is not None:
            await self._delegations.setup()
        await self._engine.start_async()

    async def stop(self, frame: EndFrame) -> None:
        """Ends the conversation, closing what is open for the processors that follow."""
        await super().stop(frame)
        await self._tear_down(frame.reason or "the pipeline ended")

    async def cancel(self, frame: CancelFrame) -> None:
        """Ends the conversation."""
        await super().cancel(frame)
        await self._tear_down(frame.reason or "the pipeline was cancelled")

    async def cleanup(self) -> None:
        """Ends the conversation, if nothing has before."""
        await super().cleanup()
        await self._tear_down("the pipeline was cleaned up")

    async def _tear_down(self, reason: object) -> None:
        self._is_over = True
        await self._end_conversation(reason)

    async def reset_conversation(self) -> None:
        """Begins another conversation: Moshi forgets what was said. Not to be called from an event handler of
        this service."""
        await self._end_conversation("the conversation begins anew")
        self._begin_conversation()

    def _begin_conversation(self) -> None:
        if self._conversation is None and not self._is_over:
            self._begin_output(self._sample_rate_hz)
            self._conversation = self.create_task(self._converse(), f"{self}::conversation")

    async def _end_conversation(self, reason: object) -> None:
        task, self._conversation = self._conversation, None
        if task is not None:
            self._why_ended = self._why_ended or str(reason)
            await self.cancel_task(task)

    async def _converse(self) -> None:
        log = CallLog(over=self.name)
        if self._delegations is not None:
            self._delegations.attach()
        try:
            async with self._engine.session(
                self._session_config(), on_reference=self._on_reference
            ) as session:
                log.session = session.key
                await self._begun(session)
                await self._follow(aiter(session))
        except Exception as error:  # whatever it is, a bot that is silent for ever helps nobody
            await self._give_up(str(error), error)
        finally:
            line, facts = log.ended(self._why_ended or "cancelled")
            logger.bind(**facts).info(line)
            self._session = None
            if self._delegations is not None:
                await self._delegations.detach()
            await self._user_stopped()
            await self.stop_all_metrics()

    async def _begun(self, session: Session) -> None:
        self._session = session
        self._transcript = session.transcript
        waiting, self._to_say = self._to_say, []
        for text in waiting:
            await self.say(text)

    def _session_config(self) -> SessionConfig:
        settings, config = self._settings, self._config
        role, voice = self._persona()
        self._role = role
        return replace(
            config,
            role=role,
            voice=voice,
            live=True,
            when_late="drop_oldest",
            output_sample_rate=self._sample_rate_hz,
            output_limit_ms=_NEVER_MS,
            sampling=settings.sampling(config.sampling or self._engine.model.sampling),
            seed=config.seed if settings.seed is None else settings.seed,
        )

    async def _handle(self, event: Event) -> None:
        await super()._handle(event)
        if self._delegations is None:
            return
        if isinstance(event, ReferenceWanted):
            await self._call_event_handler("on_delegation_created", event)
        elif isinstance(event, ReferenceEnded):
            await self._delegations.ended(event)

    # Settings and prompts

    async def _update_settings(self, delta: LLMSettings) -> dict[str, Any]:
        changed = await super()._update_settings(delta)
        if self._session is not None and SAMPLING_FIELDS & changed.keys():
            sampling = self._settings.sampling(self._config.sampling or self._engine.model.sampling)
            with suppress(SessionClosed):
                await asyncio.wrap_future(self._session.set_sampling(sampling))
        self._warn_unhandled_updated_settings(changed.keys() - SAMPLING_FIELDS)
        return changed

    def _persona(self) -> tuple[str | None, str | Path | NDArray[np.float32] | Recording | None]:
        """The role and the voice that the settings, the session or the context ask for."""
        settings, config = self._settings, self._config
        wanted = settings.role or settings.system_instruction or config.role
        role, voice = wanted or role_in(self._context), settings.voice or config.voice
        if self._engine.model.takes_roles or (role is None and voice is None):
            return role, voice
        self._warn_once(
            "prompts",
            f"{self._engine.config.source} was not trained to take a role or a voice: the system "
            "instruction and the voice have no effect",
        )
        return None, None

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            logger.warning(f"{self}: {message}")

    # Frames from the pipeline

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Hears audio, takes settings and sentences to say; passes on everything else."""
        await super().process_frame(frame, direction)
        match frame:
            case InputAudioRawFrame():
                self._hear(frame)
            case LLMContextFrame():
                await self._take_context(frame.context)
            case TTSSpeakFrame():
                await self.say(frame.text)
                return
            case LLMUpdateSettingsFrame():
                return  # LLMService has applied it, or passed it on
            case InterruptionFrame():
                self._mute()
            case InputTextRawFrame():
                self._warn_once("text", "Moshi hears, and cannot read: typed text does not reach it")
            case _:
                pass
        await self.push_frame(frame, direction)

    def _hear(self, frame: InputAudioRawFrame) -> None:
        self._begin_conversation()
        if self._session is None or not self._session.is_open:
            return
        try:
            self._session.push(mono(frame), frame.sample_rate)
        except BacklogFull as error:
            self._warn_once("backlog", f"{error}; such input is not heard")
        except SessionClosed:
            pass  # between the check and now; its last event tells why

    async def _take_context(self, context: LLMContext) -> None:
        """Begins the conversation, anew if it has begun without the role that comes only now."""
        self._context = context
        if not self._has_spoken:
            for reason in ignored_in(context):
                self._warn_once(reason, reason)
        role, _ = self._persona()
        if self._conversation is None or role == self._role:
            self._begin_conversation()
        elif self._role is None:
            await self.reset_conversation()
        else:
            self._warn_once("role", "a role is one of a whole conversation: another has no effect in it")

    async def say(self, text: str) -> None:
        """Makes Moshi speak a sentence, in its own time. TTSSpeakFrame does the same."""
        if self._session is None:
            self._to_say.append(text)
            self._begin_conversation()
            return
        try:
            await asyncio.wrap_future(self._session.say(text))
        except MoshiAgentError as error:
            await self.push_error(f"cannot say {text!r}: {error}", exception=error)
