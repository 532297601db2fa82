"""Speech recognition in a pipeline, by an engine that is a recogniser alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    STTMetadataFrame,
    TranscriptionFrame,
)
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import STTService
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.utils.time import time_now_iso8601

from moshi_agent import (
    BacklogFull,
    ConfigError,
    Ended,
    Engine,
    Session,
    SessionClosed,
    SessionConfig,
    UserSaid,
    UserStarted,
    UserStopped,
    UserText,
)
from moshi_agent_adapters.call_log import CallLog

_SETTLED_S = 0.5  # after the model's own delay: until all that was said has been written, and its step


class MoshiSTTService(STTService):
    """Writes down what a user says, with one of Kyutai's recognisers, in this process.

    Pushes InterimTranscriptionFrame with all of an utterance so far as words come, and TranscriptionFrame,
    finalized, once the user has stopped: by the recogniser's own sense of pauses, and by voice.

    It proposes the turns of the user, and recommends strategies that take them: a turn begins with voice, and
    interrupts the bot; it ends with the transcript, even where a noise goes on that sounds like voice. No
    voice activity detection and no turn model is needed.

    Args:
        engine: Loaded with `recogniser=True`; all pipelines of a process share it, and none closes it.
        **kwargs: Arguments of STTService. `ttfs_p99_latency` is, if nothing else is said, what the model's
            delay makes it.

    Raises:
        ConfigError: an engine of another kind.
    """

    def __init__(self, *, engine: Engine, **kwargs: Any) -> None:
        if engine.model.kind != "recogniser":
            raise ConfigError(
                f"an engine with a model of kind {engine.model.kind!r}; accepted: "
                'Engine.load("kyutai/stt-1b-en_fr", recogniser=True)'
            )
        kwargs.setdefault("ttfs_p99_latency", engine.model.text_delay_s + _SETTLED_S)
        super().__init__(settings=STTSettings(model=engine.model.name, language=None), **kwargs)
        self._engine = engine
        self._session: Session | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._text = ""  # of the utterance, so far
        self._hears_voice = False
        self._is_in_turn = False  # of the user: one has begun, and its transcript has not come

    def can_generate_metrics(self) -> bool:
        """Returns True: how long a transcript takes, and seconds of audio."""
        return True

    def service_metadata_frame(self) -> STTMetadataFrame:
        """Recommends turns as proposed by this service."""
        frame = super().service_metadata_frame()
        frame.user_turn_strategies = ExternalUserTurnStrategies()
        return frame

    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Takes a row of the engine, which starts here if nobody has started it.

        Without a free row the service reports a permanent error, and the pipeline goes on without it.
        """
        await super().setup(setup)
        await self._engine.start_async()
        self._hearing = self.create_task(self._hear(), f"{self}::hearing")

    async def stop(self, frame: EndFrame) -> None:
        """Ends the transcription."""
        await super().stop(frame)
        await self._end()

    async def cancel(self, frame: CancelFrame) -> None:
        """Ends the transcription."""
        await super().cancel(frame)
        await self._end()

    async def cleanup(self) -> None:
        """Ends the transcription, if nothing has before."""
        await super().cleanup()
        await self._end()

    async def _end(self) -> None:
        task, self._hearing = self._hearing, None
        if task is not None:
            await self.cancel_task(task)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Gives the recogniser audio. What it writes comes in its own time.

        Args:
            audio: 16-bit samples, mono, at `sample_rate`.

        Yields:
            None.
        """
        if self._session is not None:
            try:
                self._session.push(audio, self.sample_rate)
            except (BacklogFull, SessionClosed) as error:
                await self.push_error(f"audio is not heard: {error}", exception=error)
        yield None

    async def _hear(self) -> None:
        log, why = CallLog(over=self.name), "the pipeline ended"
        try:
            async with self._engine.session(SessionConfig(when_late="drop_oldest")) as session:
                self._session, log.session = session, session.key
                async for event in session:
                    match event:
                        case UserStarted():
                            self._hears_voice = True
                            await self._begin_turn()
                        case UserStopped():
                            self._hears_voice = False
                            await self.broadcast_frame(ProposedUserStoppedSpeakingFrame)
                        case UserText():
                            await self._write(event.text)
                        case UserSaid():
                            await self._said(event)
                        case Ended():
                            raise SessionClosed(f"the transcription was ended ({event.reason})")
                        case _:
                            pass
        except Exception as error:  # whatever it is, a service that silently hears nothing helps nobody
            why = str(error)
            await self.push_error(why, exception=error, force_treat_as_permanent=True)
        finally:
            self._session = None
            line, facts = log.ended(why)
            logger.bind(**facts).info(line)

    async def _begin_turn(self) -> None:
        self._is_in_turn = True
        await self.broadcast_frame(ProposedUserStartedSpeakingFrame)

    async def _write(self, text: str) -> None:
        if self._hears_voice and not self._is_in_turn:  # no silence has parted it from the turn before
            await self._begin_turn()
        self._text += text
        if self._text.strip():
            await self.push_frame(
                InterimTranscriptionFrame(self._text.strip(), self._user_id, time_now_iso8601())
            )

    async def _said(self, event: UserSaid) -> None:
        self._text = ""
        await self.push_frame(
            TranscriptionFrame(event.text, self._user_id, time_now_iso8601(), finalized=True)
        )
        if self._is_in_turn:  # the recogniser knows pauses that no voice activity detection does
            self._is_in_turn = False
            await self.broadcast_frame(ProposedUserStoppedSpeakingFrame)
        await self.emit_stt_usage_metrics()
