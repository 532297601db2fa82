"""Hibiki as a translator in a LiveKit room.

LiveKit's own part of it is beta, and first in livekit-agents 1.8.9: this module alone needs that release.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from livekit import rtc
from livekit.agents.beta.translation import (
    InputSpeechStarted,
    InputSpeechStopped,
    InputTranscript,
    OutputSpeechStopped,
    OutputTranscript,
    TranslatedAudioFrame,
    TranslationCapabilities,
    TranslationModel,
    TranslationModelError,
    TranslationModelSession,
)

from moshi_agent import (
    AudioChunk,
    BacklogFull,
    ConfigError,
    Ended,
    Event,
    MoshiAgentError,
    TextToken,
    UserSaid,
    UserStarted,
    UserStopped,
    UserText,
)
from moshi_agent_adapters.livekit.bot_speech import BotSpeech
from moshi_agent_adapters.livekit.engine_call import EngineCall
from moshi_agent_adapters.livekit.turn_gate import TurnGate
from moshi_agent_adapters.livekit.user_speech import UserSpeech

if TYPE_CHECKING:
    from moshi_agent import Engine, SessionConfig

_log = logging.getLogger("livekit.plugins.moshi")


class Translator(TranslationModel):
    """Runs Hibiki as a TranslationModel: `TranslationSession(model=Translator(engine))`.

    It speaks the translation while it hears. A checkpoint translates one pair of languages, which is what the
    two names tell LiveKit; they choose nothing.

    Args:
        engine: of a translator; all sessions share it, and none closes it. With a `transcriber` what is
            heard is written down as well.
        session: everything else about a session. Rates and pace are set here.

    Raises:
        ConfigError: an engine of another kind.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        source_language: str = "fr",
        target_language: str = "en",
        session: SessionConfig | None = None,
    ) -> None:
        if engine.model.kind != "translator":
            raise ConfigError(
                f"an engine with a model of kind {engine.model.kind!r}; accepted: a translator, such as "
                "kyutai/hibiki-1b-pytorch-bf16"
            )
        super().__init__(
            capabilities=TranslationCapabilities(
                input_transcription=engine.model.transcriber is not None,
                output_transcription=True,
                turn_reporting=True,
                output_segmentation=True,
            ),
            target_language=target_language,
            source_language=source_language,
        )
        self.engine = engine
        self._session = session

    @property
    def model(self) -> str:
        """The checkpoint's name."""
        return self.engine.model.name

    @property
    def provider(self) -> str:
        """Who runs it: this process."""
        return "moshi-agent"

    def session(self) -> TranslatorSession:
        """Returns a session. It takes its row of the engine when LiveKit reads it."""
        return TranslatorSession(self)

    async def aclose(self) -> None:
        """Does nothing: the engine is everybody's."""

    def session_config(self) -> SessionConfig:
        """Returns what a session is set up with."""
        from moshi_agent import SessionConfig

        config = self._session or SessionConfig()
        return replace(config, live=True, when_late="drop_oldest", output_sample_rate=24_000)


class TranslatorSession(TranslationModelSession[Any]):
    """Holds one translation, in order: what is heard and said is told as LiveKit reads the sound."""

    def __init__(self, translator: Translator) -> None:
        super().__init__(translator)
        self._translator = translator
        self._call = EngineCall()
        self._speaker = UserSpeech()
        self._speech, self._gate = BotSpeech(), TurnGate()

    def push_audio(self, frame: rtc.AudioFrame) -> None:
        """Gives the translator something to hear. Before the beginning and after the end nobody hears it."""
        try:
            self._call.push(frame)
        except BacklogFull as error:
            _log.warning("input is not heard: %s", error)

    @property
    def audio_stream(self) -> AsyncIterator[TranslatedAudioFrame | OutputSpeechStopped]:
        """The translation, and where each stretch of it ends. It may be read once."""
        return self._read()

    async def _read(self) -> AsyncIterator[TranslatedAudioFrame | OutputSpeechStopped]:
        translator = self._translator
        try:
            session = await self._call.open(translator.engine, translator.session_config())
        except MoshiAgentError as error:
            self._fail(error)
            return
        async for event in session:
            is_over = self._speech.follow(event)
            if isinstance(event, AudioChunk):
                deltas, frame = self._speech.speak(event)
                for delta in deltas:
                    self._said(delta.text, is_final=False)
                if self._gate.update(frame.frame):
                    yield TranslatedAudioFrame(frame.frame, self._translator.target_language)
            else:
                self._tell(event)
            if is_over:
                self._said("", is_final=True)
                yield OutputSpeechStopped()

    def _said(self, text: str, *, is_final: bool) -> None:
        self.emit("output_transcript", OutputTranscript(text, is_final, self._translator.target_language))

    def _tell(self, event: Event) -> None:
        match event:
            case TextToken():
                for delta in self._speech.write(event):
                    self._said(delta.text, is_final=False)
            case UserStarted():
                self.emit("input_speech_started", InputSpeechStarted())
            case UserStopped():
                self.emit("input_speech_stopped", InputSpeechStopped())
            case UserText():
                if so_far := self._speaker.interim(event):
                    self._heard(so_far.transcript, is_final=False)
            case UserSaid():
                self._heard(self._speaker.final(event).transcript, is_final=True)
            case Ended():
                self._ended(event)
            case _:
                pass

    def _heard(self, text: str, *, is_final: bool) -> None:
        self.emit("input_transcript", InputTranscript(text, is_final, self._translator.source_language))

    def _ended(self, event: Ended) -> None:
        if not self._closing:
            self._fail(self._call.lost(event, "translation"))

    def _fail(self, error: Exception) -> None:
        label = self._translator.label
        self.emit(
            "error",
            TranslationModelError(timestamp=time.time(), label=label, error=error, recoverable=False),
        )

    async def aclose(self) -> None:
        """Ends the translation. May be called again."""
        self._closing = True
        self._call.close()
