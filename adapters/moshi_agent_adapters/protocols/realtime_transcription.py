"""OpenAI's Realtime protocol for sessions that only write down speech, of the type `transcription`.

    client  session.update, input_audio_buffer.{append,commit,clear}
    server  session.{created,updated}, input_audio_buffer.{speech_started,speech_stopped,committed,cleared},
            conversation.item.{added,done}, conversation.item.input_audio_transcription.{delta,completed},
            error

The types in `openai.types.realtime` are the reference. The recogniser knows by itself when somebody has said
something: each time that is one item, whose transcript comes while it is spoken. A client that says
`turn_detection: null` cuts the audio itself, and is answered as far as it can be: its
`input_audio_buffer.commit` names the item that is being spoken, or the last one where it is complete already.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

from moshi_agent.events import Event, UserSaid, UserStarted, UserStopped, UserText
from moshi_agent_adapters.protocols.call_protocol import (
    CallEnd,
    Hear,
    Message,
    Order,
    ProtocolError,
    Send,
    Wanted,
)
from moshi_agent_adapters.protocols.json_events import Json, audio_bytes, member_of, parse_event, text_of
from moshi_agent_adapters.protocols.live_audio import PCM_24K, LiveAudio, audio_format
from moshi_agent_adapters.protocols.realtime import RealtimeServer
from moshi_agent_adapters.protocols.realtime_events import RealtimeEvents
from moshi_agent_adapters.protocols.realtime_user_item import RealtimeUserItem
from moshi_agent_adapters.protocols.transcription_models import check_transcription_model


class RealtimeTranscriptionProtocol:
    """Translates one call over `/v1/realtime` to a recogniser.

    Args:
        server: what the call has to know of it.
        model: as the client names it in its address, None where it names none.
    """

    name: ClassVar[str] = "realtime transcription"

    def __init__(self, server: RealtimeServer, model: str | None = None) -> None:
        self._server = server
        self._model = model
        self._input: LiveAudio = PCM_24K
        self._has_begun = False
        self._early: list[Hear] = []  # audio of the message that begins the call
        self._event, self._item_numbers = RealtimeEvents(), itertools.count(1)
        self._client_cuts = False  # it has switched turn detection off
        self._last_item: str | None = None
        self._item: RealtimeUserItem | None = None  # what is being said
        self._is_committed = True  # the item, or else the one before it
        self._voice_item: str | None = None  # in which voice was heard to begin

    # The client

    @property
    def wanted(self) -> Wanted | None:
        """Returns nothing in particular, once the client has sent something."""
        return Wanted() if self._has_begun else None

    def connected(self) -> Iterator[Message]:
        """Tells the session as it is by itself. Raises ProtocolError for a model that is not here."""
        check_transcription_model(self._model, self._server.model)
        yield self._event("session.created", session=self._session())

    def began(self) -> Iterator[Message]:
        """Returns nothing: the protocol has no event for it."""
        yield from ()

    def left_out(self, reason: str) -> Iterator[Message]:
        """Returns nothing: nothing is wished for that could be left out."""
        yield from ()

    def receive(self, message: Message) -> Iterator[Order]:
        """Takes an event of the client. Raises ProtocolError."""
        event = parse_event(message)
        early, self._early = self._early, []
        yield from early
        try:
            if event["type"] == "input_audio_buffer.append":
                yield from self._hear(event)
            else:
                yield from map(Send, self._command(event["type"], event))
        except ProtocolError as error:
            error.client_event_id = event.get("event_id")
            raise
        self._has_begun = True

    def _hear(self, event: Json) -> Iterator[Hear]:
        heard = Hear(self._input.decode(audio_bytes(event)), self._input.rate)
        if self._has_begun and len(heard.pcm):
            yield heard
        elif len(heard.pcm):
            self._early.append(heard)

    def _command(self, kind: str, event: Json) -> Iterator[str]:
        match kind:
            case "session.update":
                self._update(member_of(event, "session"))
                yield self._event("session.updated", session=self._session())
            case "input_audio_buffer.commit":
                yield from self._commit()
            case "input_audio_buffer.clear":
                yield self._event("input_audio_buffer.cleared")
            case _:
                raise ProtocolError(f"{kind} has no effect: speech is written down here", "unsupported_event")

    def _update(self, asked: Json) -> None:
        kind = asked.get("type", "transcription")
        if kind != "transcription":
            raise ProtocolError(f"session.type {str(kind)[:40]!r}; accepted: transcription", "invalid_value")
        heard = member_of(member_of(asked, "audio", {}), "input", {})
        transcription = member_of(heard, "transcription", {})
        check_transcription_model(text_of(transcription, "model"), self._server.model)
        self._input = audio_format(member_of(heard, "format", self._input.name))
        if "turn_detection" in heard:
            self._client_cuts = heard["turn_detection"] is None

    def _commit(self) -> Iterator[str]:
        if self._item is None and self._is_committed:
            self._open()
        yield self._committed()

    def _committed(self) -> str:
        self._is_committed = True
        item = self._item.item_id if self._item is not None else self._last_item
        after = None if self._item is None else self._item.after
        return self._event("input_audio_buffer.committed", previous_item_id=after, item_id=item)

    # The engine

    def tell(self, event: Event) -> Iterator[Message]:
        """Returns what the client is told of an event."""
        match event:
            case UserStarted():
                self._voice_item = self._open().item_id
                yield self._voice("started", audio_start_ms=round(1000 * event.media_s))
            case UserStopped() if self._voice_item is not None:
                yield self._voice("stopped", audio_end_ms=round(1000 * event.media_s))
            case UserText():
                yield from self._open().text(event.text)
            case UserSaid():
                yield from self._complete(event.end - event.start)
            case _:
                pass

    def _voice(self, what: str, **fields: int) -> str:
        return self._event(f"input_audio_buffer.speech_{what}", item_id=self._voice_item, **fields)

    def _open(self) -> RealtimeUserItem:
        """The item of what is being said."""
        if self._item is None:
            item_id = f"item_{next(self._item_numbers)}"
            self._item = RealtimeUserItem(self._event, item_id, self._last_item)
            self._last_item, self._is_committed = item_id, False
        return self._item

    def _complete(self, seconds: float) -> Iterator[str]:
        item = self._open()
        if not self._client_cuts and not self._is_committed:
            yield self._committed()
        yield from item.end(seconds)
        self._item = None

    # The end

    def refused(self, error: ProtocolError) -> Iterator[Message]:
        """Returns an error event about one message."""
        yield self._event.refused(error)

    def ended(self, end: CallEnd) -> Iterator[Message]:
        """Returns an error, if the end is one."""
        yield from self._event.ended(end)

    def _session(self) -> Json:
        heard = {
            "format": self._input.name,
            "transcription": {"model": self._server.model},
            "turn_detection": None if self._client_cuts else {"type": "semantic_vad"},
            "noise_reduction": None,
        }
        return {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "id": self._server.session_id,
            "expires_at": self._server.expires_at,
            "audio": {"input": heard},
        }
