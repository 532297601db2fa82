"""OpenAI's Realtime protocol in its general form ("GA") over a websocket, for clients that know no other.

    client  session.update, input_audio_buffer.{append,commit,clear}, response.{create,cancel},
            conversation.item.{create,delete,truncate}
    server  session.{created,updated}, response.*, conversation.item.{added,done,deleted,truncated},
            conversation.item.input_audio_transcription.{delta,completed}, input_audio_buffer.*, error

The types in `openai.types.realtime` are the reference. The protocol has turns and Moshi has none: each time
that the bot speaks is told as one response, which nobody has to ask for. A client's wishes are answered as
far as they can be:

- `response.create` is given the bot's next turn, whenever it comes.
- `response.cancel` leaves out the rest of a turn.
- `input_audio_buffer.commit` and items of the client are acknowledged, and have no effect.
- `input_audio_buffer.speech_started` is never sent: clients stop playing at it, and Moshi yields by itself.

The conversation begins with the client's first message; a model that takes roles waits for instructions, or
for anything other than a `session.update`.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from moshi_agent.events import AudioChunk, Event, Interrupted, TextToken, UserSaid, UserText
from moshi_agent_adapters.bot_turn import BotTurn, begins_turn
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
from moshi_agent_adapters.protocols.realtime_events import RealtimeEvents
from moshi_agent_adapters.protocols.realtime_response import RealtimeResponse, ResponseEnd
from moshi_agent_adapters.protocols.realtime_user_item import RealtimeUserItem

_FOREIGN_MODELS = ("gpt-realtime", "gpt-4o-realtime", "gpt-4o-mini-realtime")  # clients send these by default


@dataclass(frozen=True, kw_only=True)
class RealtimeServer:
    """Holds what a call has to know of its server."""

    model: str
    session_id: str
    expires_at: int  # Unix time
    takes_roles: bool = False  # so that instructions are worth waiting for


class RealtimeProtocol:
    """Translates one call over `/v1/realtime`.

    Args:
        server: what the call has to know of it.
        model: as the client names it in its address, None where it names none.
    """

    name: ClassVar[str] = "realtime"

    def __init__(self, server: RealtimeServer, model: str | None = None) -> None:
        self._server = server
        self._model = model or server.model
        self._input: LiveAudio = PCM_24K
        self._output: LiveAudio = PCM_24K
        self._voice: str | None = None
        self._session = _first_session(server)
        self._has_begun = False
        self._early: list[Hear] = []  # audio of the message that begins the conversation
        self._event, self._item_numbers = RealtimeEvents(), itertools.count(1)
        self._last_item: str | None = None
        self._response: RealtimeResponse | None = None
        self._turn: BotTurn | None = None  # goes on where its response is cancelled
        self._metadata: Json | None = None  # of the `response.create` that the next turn answers
        self._heard: RealtimeUserItem | None = None  # what the user says, as far as it is known

    # The client

    @property
    def wanted(self) -> Wanted | None:
        """Returns what `session.update` has asked for, once the conversation is to begin."""
        if not self._has_begun:
            return None
        role = text_of(self._session, "instructions")
        return Wanted(role=role, voice=self._voice, output_sample_rate=self._output.rate)

    def connected(self) -> Iterator[Message]:
        """Tells the session as it is by itself. Raises ProtocolError for a model that is not here."""
        if self._model != self._server.model and not self._model.startswith(_FOREIGN_MODELS):
            message = f"there is no model {self._model[:60]!r}; accepted: {self._server.model!r}"
            raise ProtocolError(message, "model_not_found")
        yield self._event("session.created", session=self._session)

    def began(self) -> Iterator[Message]:
        """Returns nothing: the protocol has no event for it."""
        yield from ()

    def left_out(self, reason: str) -> Iterator[Message]:
        """Returns nothing: the protocol has no event for it but an error, and it is none."""
        yield from ()

    def receive(self, message: Message) -> Iterator[Order]:
        """Takes an event of the client. Raises ProtocolError."""
        event = parse_event(message)
        kind, client_id = event["type"], event.get("event_id")
        early, self._early = self._early, []
        yield from early
        try:
            if kind == "input_audio_buffer.append":
                yield from self._hear(event)
            else:
                yield from map(Send, self._command(kind, event))
        except ProtocolError as error:
            error.client_event_id = client_id
            raise
        waits = self._server.takes_roles and kind == "session.update" and not self._session["instructions"]
        self._has_begun = self._has_begun or not waits

    def _hear(self, event: Json) -> Iterator[Hear]:
        pcm = self._input.decode(audio_bytes(event))
        if not len(pcm):
            return
        if self._has_begun:
            yield Hear(pcm, self._input.rate)
        else:
            self._early.append(Hear(pcm, self._input.rate))

    def _command(self, kind: str, event: Json) -> Iterator[str]:
        match kind:
            case "session.update":
                self._update(member_of(event, "session"))
                yield self._event("session.updated", session=self._session)
            case "response.create":
                yield from self._create(event)
            case "response.cancel":
                yield from self._cancel()
            case "input_audio_buffer.commit":
                item_id = f"item_{next(self._item_numbers)}"
                yield self._event(
                    "input_audio_buffer.committed", previous_item_id=self._last_item, item_id=item_id
                )
            case "input_audio_buffer.clear":
                yield self._event("input_audio_buffer.cleared")
            case "conversation.item.create":
                yield from self._add_item(member_of(event, "item"))
            case "conversation.item.delete":
                yield self._event("conversation.item.deleted", item_id=_id_of(event))
            case "conversation.item.truncate":
                places = {name: _count(event, name) for name in ("content_index", "audio_end_ms")}
                yield self._event("conversation.item.truncated", item_id=_id_of(event), **places)
            case _:
                raise ProtocolError(f"{kind} has no effect here", "unsupported_event")

    def _update(self, asked: Json) -> None:
        kind, modalities = asked.get("type", "realtime"), asked.get("output_modalities", ["audio"])
        if kind != "realtime":
            raise ProtocolError(f"session.type {str(kind)[:40]!r}; accepted: realtime", "invalid_value")
        if modalities != ["audio"]:
            raise ProtocolError(
                f"output_modalities {str(modalities)[:40]}; accepted: ['audio']", "invalid_value"
            )
        audio = member_of(asked, "audio", {})
        heard, said = member_of(audio, "input", {}), member_of(audio, "output", {})
        heard_format = audio_format(member_of(heard, "format", self._input.name))
        said_format = audio_format(member_of(said, "format", self._output.name))
        if self._has_begun and said_format != self._output:
            raise ProtocolError("audio.output.format; accepted: before the call has begun", "invalid_value")
        if "instructions" in asked:
            self._session["instructions"] = text_of(asked, "instructions") or ""
        if isinstance(said.get("voice"), str):
            self._voice = said["voice"]
        self._input, self._output = heard_format, said_format
        self._session["audio"] = {
            "input": self._session["audio"]["input"] | {"format": self._input.name},
            "output": {"format": self._output.name, "voice": self._voice},
        }

    def _create(self, event: Json) -> Iterator[str]:
        if self._response is not None:
            message = "the bot is speaking; accepted: one response at a time"
            raise ProtocolError(message, "conversation_already_has_active_response")
        self._metadata = member_of(member_of(event, "response", {}), "metadata", {}) or None
        yield from ()

    def _cancel(self) -> Iterator[str]:
        if self._response is None:
            raise ProtocolError("the bot says nothing that could be cancelled", "response_cancel_not_active")
        yield from self._end_response("client_cancelled")

    def _add_item(self, item: Json) -> Iterator[str]:
        item_id = text_of(item, "id") or f"item_{next(self._item_numbers)}"
        told = {**item, "id": item_id, "object": "realtime.item", "status": "completed"}
        yield self._event("conversation.item.added", previous_item_id=self._last_item, item=told)
        yield self._event("conversation.item.done", previous_item_id=self._last_item, item=told)
        self._last_item = item_id

    # The engine

    def tell(self, event: Event) -> Iterator[Message]:
        """Returns what the client is told of an event."""
        if self._turn is None and begins_turn(event):
            self._turn = BotTurn()
            yield from self._begin_response()
        if self._response is not None and isinstance(event, AudioChunk):
            yield self._response.audio(base64.b64encode(self._output.encode(event.pcm)).decode())
        elif self._response is not None and isinstance(event, TextToken):
            yield from self._response.text(event.text)
        elif isinstance(event, UserText):
            yield from self._hear_text(event.text)
        elif isinstance(event, UserSaid) and self._heard is not None:
            yield from self._heard.end(event.end - event.start)
            self._heard = None
        if self._turn is not None and self._turn.ends_with(event):
            yield from self._end_response("turn_detected" if isinstance(event, Interrupted) else "completed")
            self._turn = None

    def _begin_response(self) -> Iterator[str]:
        shape: Json = {"metadata": self._metadata, "audio": {"output": self._session["audio"]["output"]}}
        self._metadata = None
        self._response = RealtimeResponse(self._event, next(self._item_numbers), self._last_item, shape)
        yield from self._response.begin()
        self._last_item = self._response.item_id

    def _end_response(self, end: ResponseEnd) -> Iterator[str]:
        if self._response is not None:
            yield from self._response.end(end)
        self._response = None

    def _hear_text(self, piece: str) -> Iterator[str]:
        """A piece of what the user says, where the engine has a recogniser."""
        if self._heard is None:
            item_id = f"item_{next(self._item_numbers)}"
            self._heard = RealtimeUserItem(self._event, item_id, self._last_item)
            self._last_item = item_id
        yield from self._heard.text(piece)

    # The end

    def refused(self, error: ProtocolError) -> Iterator[Message]:
        """Returns an error event about one message."""
        yield self._event.refused(error)

    def ended(self, end: CallEnd) -> Iterator[Message]:
        """Returns the end of a response that was begun, and an error, if the end is one."""
        yield from self._end_response("turn_detected")
        yield from self._event.ended(end)


def _first_session(server: RealtimeServer) -> Json:
    """The session as it is before the client has said anything."""
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": server.session_id,
        "model": server.model,
        "expires_at": server.expires_at,
        "output_modalities": ["audio"],
        "instructions": "",
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "audio": {
            "input": {"format": PCM_24K.name, "transcription": None, "turn_detection": None},
            "output": {"format": PCM_24K.name, "voice": None},
        },
    }


def _id_of(event: Json) -> str:
    item_id = text_of(event, "item_id")
    if item_id is None:
        raise ProtocolError("item_id is missing; accepted: the id of an item", "invalid_value")
    return item_id


def _count(event: Json, name: str) -> int:
    value = event.get(name, 0)
    if type(value) is not int or value < 0:
        raise ProtocolError(f"{name}; accepted: a whole number of 0 or more", "invalid_value")
    return value
