"""Simultaneous translation of speech in a pipeline, by an engine of a translator (Hibiki)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from loguru import logger
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    SpeechOutputAudioRawFrame,
    TranscriptionFrame,
    TranslationFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor, FrameProcessorSetup
from pipecat.transcriptions.language import Language
from pipecat.utils.time import time_now_iso8601

from moshi_agent import (
    AudioChunk,
    BacklogFull,
    ConfigError,
    Ended,
    Engine,
    Event,
    Session,
    SessionClosed,
    SessionConfig,
    TextToken,
    UserSaid,
    UserText,
)
from moshi_agent.text.pieces import ends_sentence
from moshi_agent_adapters.bot_turn import BotTurn, begins_turn
from moshi_agent_adapters.call_log import CallLog
from moshi_agent_adapters.pipecat.frames import mono
from moshi_agent_adapters.pipecat.playout import Playout

_LONGEST_TEXT = 100  # characters of one TranslationFrame, where no sentence ends before


class MoshiTranslator(FrameProcessor):
    """Hears a speaker and says the same in another language, while the speaker goes on.

    Its place is between the two ends of a transport. Pushes its voice as SpeechOutputAudioRawFrame, between
    TTSStartedFrame and TTSStoppedFrame for each stretch of speech, and what it says as TranslationFrame,
    sentence by sentence, long ones in pieces. With an engine that has a `transcriber`, what was heard is
    pushed as well, as InterimTranscriptionFrame and TranscriptionFrame.

    Args:
        engine: Of a translator; all pipelines of a process share it, and none closes it.
        source_language: That is heard.
        target_language: That is spoken.
        session: Everything else about the translation. Rates and pace are set here.

    Raises:
        ConfigError: an engine of another kind.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        source_language: Language = Language.FR,
        target_language: Language = Language.EN,
        session: SessionConfig | None = None,
    ) -> None:
        if engine.model.kind != "translator":
            raise ConfigError(
                f"an engine with a model of kind {engine.model.kind!r}; accepted: a translator, such as "
                "kyutai/hibiki-1b-pytorch-bf16"
            )
        super().__init__()
        self._engine = engine
        self._source, self._target = source_language, target_language
        self._config = session or SessionConfig()
        self._session: Session | None = None
        self._translating: asyncio.Task[None] | None = None
        self._turn: BotTurn | None = None
        self._said = self._heard = ""  # of the sentence, and of what is being heard

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Takes a row of the engine, which starts here if nobody has started it."""
        await super().setup(setup)
        await self._engine.start_async()
        rate_hz = setup.audio_out_sample_rate
        self._playout = Playout(rate_hz)
        config = replace(self._config, live=True, when_late="drop_oldest", output_sample_rate=rate_hz)
        self._translating = self.create_task(self._translate(config), f"{self}::translation")

    async def cleanup(self) -> None:
        """Ends the translation."""
        await super().cleanup()
        task, self._translating = self._translating, None
        if task is not None:
            await self.cancel_task(task)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Hears audio, and passes on everything."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame) and self._session is not None:
            try:
                self._session.push(mono(frame), frame.sample_rate)
            except (BacklogFull, SessionClosed) as error:
                await self.push_error(f"audio is not heard: {error}", exception=error)
        await self.push_frame(frame, direction)

    async def _translate(self, config: SessionConfig) -> None:
        log, why = CallLog(over=self.name), "the pipeline ended"
        try:
            async with self._engine.session(config) as session:
                self._session, log.session = session, session.key
                async for event in session:
                    await self._follow(event)
                    await self._tell(event)
        except Exception as error:  # whatever it is, a translator that is silent for ever helps nobody
            why = str(error)
            await self.push_error(why, exception=error, force_treat_as_permanent=True)
        finally:
            self._session = None
            line, facts = log.ended(why)
            logger.bind(**facts).info(line)

    async def _follow(self, event: Event) -> None:
        """Where stretches of speech begin and end."""
        if self._turn is None and begins_turn(event):
            self._turn = BotTurn()
            await self.push_frame(TTSStartedFrame())
        if self._turn is not None and self._turn.ends_with(event):
            self._turn = None
            await self._end_sentence()
            await self.push_frame(TTSStoppedFrame())

    async def _tell(self, event: Event) -> None:
        match event:
            case AudioChunk():
                audio = self._playout.admit(event, time.monotonic())
                if audio is not None:
                    await self.push_frame(SpeechOutputAudioRawFrame(audio, event.sample_rate, 1))
            case TextToken():
                is_long = ends_sentence(self._said) or len(self._said) > _LONGEST_TEXT
                if event.text.startswith(" ") and is_long:
                    await self._end_sentence()
                self._said += event.text
            case UserText():
                self._heard += event.text
                if text := self._heard.strip():
                    so_far = InterimTranscriptionFrame(text, "", time_now_iso8601(), self._source)
                    await self.push_frame(so_far)
            case UserSaid():
                self._heard = ""
                await self.push_frame(
                    TranscriptionFrame(event.text, "", time_now_iso8601(), self._source, finalized=True)
                )
            case Ended():
                raise SessionClosed(f"the translation was ended ({event.reason})")
            case _:
                pass

    async def _end_sentence(self) -> None:
        text, self._said = self._said.strip(), ""
        if text:
            await self.push_frame(TranslationFrame(text, "", time_now_iso8601(), self._target))
