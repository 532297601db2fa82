"""Speech recognition for a cascade, by an engine that is a recogniser alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, stt
from livekit.agents.language import LanguageCode
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr, TimedString
from livekit.agents.utils import AudioBuffer, combine_frames, is_given

from moshi_agent import (
    AudioError,
    ConfigError,
    Ended,
    Event,
    MoshiAgentError,
    SessionClosed,
    UserPaused,
    UserSaid,
    UserStarted,
    UserText,
    UserWord,
)
from moshi_agent_adapters.livekit.frames import mono

if TYPE_CHECKING:  # torch comes with them, and importing a plugin is to be cheap
    from moshi_agent import Engine, Session

_EARLY_S = 0.5  # the pause head at which an answer may begin to be made


class STT(stt.STT[Any]):
    """Writes down what a user says, with one of Kyutai's recognisers, in this process.

    It streams: interim transcripts, words with their times, a preflight transcript when the recogniser
    expects half a second of silence, and a final one once the user has stopped. Its sense of pauses can end
    turns: `AgentSession(stt=..., turn_handling={"turn_detection": "stt"})`.

    Args:
        engine: loaded with `recogniser=True`; all calls of a worker share it, and none closes it.
        language: that is spoken; the recogniser finds it out by itself, and LiveKit is told this one.

    Raises:
        ConfigError: an engine of another kind.
    """

    def __init__(self, engine: Engine, *, language: str = "en") -> None:
        if engine.model.kind != "recogniser":
            raise ConfigError(
                f"an engine with a model of kind {engine.model.kind!r}; accepted: "
                'Engine.load("kyutai/stt-1b-en_fr", recogniser=True)'
            )
        super().__init__(
            capabilities=stt.STTCapabilities(streaming=True, interim_results=True, aligned_transcript="word")
        )
        self.engine = engine
        self._language = LanguageCode(language)

    @property
    def model(self) -> str:
        """The checkpoint's name."""
        return self.engine.model.name

    @property
    def provider(self) -> str:
        """Who runs it: this process."""
        return "moshi-agent"

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> RecognizeStream:
        """Returns a stream, which takes its row of the engine at once."""
        return RecognizeStream(self, self._language_or(language), conn_options)

    def _language_or(self, language: NotGivenOr[str]) -> LanguageCode:
        return LanguageCode(language) if is_given(language) else self._language

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> stt.SpeechEvent:
        """Writes down a recording, as fast as it goes."""
        from moshi_agent import SessionConfig

        frame, utterance, said = (
            combine_frames(buffer),
            Utterance(self._language_or(language), 0.0),
            list[str](),
        )
        try:
            await self.engine.start_async()
            async with self.engine.session(SessionConfig(live=False)) as session:
                session.push(mono(frame), frame.sample_rate)
                _ = session.finish()
                async for event in session:
                    utterance.add(event)
                    if isinstance(event, UserSaid):
                        said.append(event.text)
        except MoshiAgentError as error:
            raise _api_error(error) from error
        final = utterance.data(" ".join(said))
        return stt.SpeechEvent(stt.SpeechEventType.FINAL_TRANSCRIPT, alternatives=[final])


class Utterance:
    """What has been written of one utterance so far.

    Args:
        language: that LiveKit is told.
        offset_s: where the stream began, on LiveKit's clock.
    """

    def __init__(self, language: LanguageCode, offset_s: float) -> None:
        self._language = language
        self._offset_s = offset_s
        self.text = ""
        self.words: list[TimedString] = []

    def add(self, event: Event) -> None:
        """Takes what is written; anything else is passed over."""
        match event:
            case UserText():
                self.text += event.text
            case UserWord():
                start, end = event.start + self._offset_s, event.end + self._offset_s
                self.words.append(TimedString(event.text, start_time=start, end_time=end))
            case _:
                pass

    def data(self, text: str) -> stt.SpeechData:
        """Returns LiveKit's transcript of this text, with the words that are known."""
        times = [(word.start_time, word.end_time) for word in self.words]
        start, end = (times[0][0], times[-1][1]) if times else (self._offset_s, self._offset_s)
        return stt.SpeechData(
            language=self._language,
            text=text,
            start_time=start if is_given(start) else 0.0,
            end_time=end if is_given(end) else 0.0,
            confidence=1.0,
            words=list(self.words),
        )


class RecognizeStream(stt.RecognizeStream):
    """Writes down one stream of audio."""

    def __init__(self, recogniser: STT, language: LanguageCode, conn_options: APIConnectOptions) -> None:
        super().__init__(stt=recogniser, conn_options=conn_options)
        self._engine = recogniser.engine
        self._language = language

    async def _run(self) -> None:
        from moshi_agent import SessionConfig

        self._utterance = Utterance(self._language, self.start_time_offset)
        self._speaks, self._reported_s = False, 0.0
        hearing: asyncio.Task[None] | None = None
        try:
            await self._engine.start_async()
            async with self._engine.session(SessionConfig()) as session:
                hearing = asyncio.create_task(self._hear(session), name="moshi.hearing")
                async for event in session:
                    self._tell(event)
        except MoshiAgentError as error:
            raise _api_error(error) from error
        finally:
            if hearing is not None:
                hearing.cancel()

    async def _hear(self, session: Session) -> None:
        async for frame in self._input_ch:
            if isinstance(frame, rtc.AudioFrame):
                try:
                    await session.send_audio(mono(frame), frame.sample_rate)
                except SessionClosed:
                    return  # its last event tells why
        _ = session.finish()

    def _tell(self, event: Event) -> None:
        self._utterance.add(event)
        kinds = stt.SpeechEventType
        match event:
            case UserStarted():
                self._start(event)
            case UserText():
                self._start(event)
                self._send(kinds.INTERIM_TRANSCRIPT, self._utterance.text.strip())
            case UserPaused() if event.horizon_s == _EARLY_S:
                self._send(kinds.PREFLIGHT_TRANSCRIPT, self._utterance.text.strip())
            case UserSaid():
                self._send(kinds.FINAL_TRANSCRIPT, event.text)
                self._end(event)
            case Ended(reason="finished" | "closed"):
                self._end(event)
            case Ended():
                raise APIConnectionError(f"the transcription was ended ({event.reason}): {event.error}")
            case _:
                pass

    def _send(self, kind: stt.SpeechEventType, text: str) -> None:
        if text:
            self._event_ch.send_nowait(stt.SpeechEvent(kind, alternatives=[self._utterance.data(text)]))

    def _start(self, event: Event) -> None:
        if not self._speaks:
            self._speaks = True
            began = stt.SpeechEvent(stt.SpeechEventType.START_OF_SPEECH, speech_start_time=event.wall_s)
            self._event_ch.send_nowait(began)

    def _end(self, event: Event) -> None:
        """Ends an utterance, and reports the seconds heard since the last one."""
        self._utterance = Utterance(self._language, self.start_time_offset)
        if self._speaks:
            self._speaks = False
            self._event_ch.send_nowait(stt.SpeechEvent(stt.SpeechEventType.END_OF_SPEECH))
        seconds, self._reported_s = event.media_s - self._reported_s, event.media_s
        if seconds > 0:
            usage = stt.RecognitionUsage(audio_duration=seconds)
            self._event_ch.send_nowait(
                stt.SpeechEvent(stt.SpeechEventType.RECOGNITION_USAGE, recognition_usage=usage)
            )


def _api_error(error: MoshiAgentError) -> APIConnectionError:
    """A full engine may have room again soon, and LiveKit tries again; audio of another form never fits."""
    return APIConnectionError(str(error), retryable=not isinstance(error, AudioError))
