"""OpenAI's full-duplex protocol "GPT-Live" over a websocket: JSON events, audio in base64.

    client  session.start, session.input_audio.{append,mute,unmute}, session.update, session.close,
            session.{instructions,thinking,commentary}.append
    server  session.started, session.output_audio.delta, session.{output,input}_transcript.delta,
            session.input_audio.{muted,unmuted}, session.updated, session.closed, info, error

The output is continuous, silence included, and there are no turns. The types in `openai.types.live` are the
reference. Moshi delegates no work, so those events do not occur, and input is transcribed where the engine
has a recogniser. What is appended to Moshi's context in mid-conversation is acknowledged, and an `info` event
says that it has no effect.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from moshi_agent.events import AudioChunk, Event, TextToken, UserText
from moshi_agent_adapters.protocols.call_protocol import (
    CallEnd,
    EndKind,
    HangUp,
    Hear,
    Message,
    Order,
    ProtocolError,
    Say,
    Send,
    Wanted,
)
from moshi_agent_adapters.protocols.json_events import Json, audio_bytes, member_of, parse_event, text_of
from moshi_agent_adapters.protocols.live_audio import PCM_24K, LiveAudio, audio_format

_FRAME_MS = 80
_CONTEXT = ("session.instructions.append", "session.thinking.append", "session.commentary.append")
_UNSUPPORTED = (
    "session.output_audio.fixture.play",
    "decision.create",
    "decision.item.create",
    "decision.item.delete",
    "response.create",
    "response.item.create",
)
_CLOSE_REASONS: dict[EndKind, str] = {
    "hung_up": "close_requested",
    "expired": "expired",
    "idle": "expired",
    "drained": "remote_hangup",
}
_CLIENT_FAULTS: tuple[EndKind, ...] = ("bad_message", "too_fast", "too_slow", "idle")
_LONGEST_COMMENTARY = 2000  # characters: some two minutes of speech


@dataclass(frozen=True, kw_only=True)
class LiveServer:
    """Holds what a call has to know of its server."""

    model: str
    session_id: str
    expires_at: int  # Unix time
    say_commentary: bool = False


class LiveProtocol:
    """Translates one call over `/v1/live/sessions`."""

    name: ClassVar[str] = "gpt-live"

    def __init__(self, server: LiveServer) -> None:
        self._wanted: Wanted | None = None
        self._server = server
        self._audio: LiveAudio = PCM_24K
        self._session: Json = {}
        self._is_muted = False
        self._has_begun = self._has_spoken = False
        self._heard_s = 0.0
        self._media_ms = 0
        self._numbers = itertools.count(1)
        self._start_id: str | None = None

    @property
    def wanted(self) -> Wanted | None:
        """Returns what `session.start` has asked for."""
        return self._wanted

    def connected(self) -> Iterator[Message]:
        """Returns nothing: the client speaks first."""
        yield from ()

    def began(self) -> Iterator[Message]:
        """Tells that the session has started."""
        self._has_begun = True
        yield self._event("session.started", self._start_id, session=self._session)

    def left_out(self, reason: str) -> Iterator[Message]:
        """Returns an `info` event."""
        yield self._event("info", self._start_id, code="setting_not_used", message=reason)

    def receive(self, message: Message) -> Iterator[Order]:
        """Takes an event of the client. Raises ProtocolError."""
        event = parse_event(message)
        kind, client_id = event["type"], event.get("event_id")
        try:
            if self._wanted is None:
                self._start(kind, event)
            elif kind == "session.input_audio.append":
                yield from self._hear(event)
            else:
                yield from self._command(kind, event, client_id)
        except ProtocolError as error:
            error.client_event_id = client_id
            raise

    def _start(self, kind: str, event: Json) -> None:
        if kind != "session.start":
            raise ProtocolError(f"{kind} before the session has started; accepted: session.start")
        session = member_of(event, "session")
        model = session.get("model") or self._server.model
        if not isinstance(model, str) or not (model == self._server.model or model.startswith("gpt-live")):
            raise ProtocolError(
                f"there is no model {str(model)[:60]!r}; accepted: {self._server.model!r}", "model_not_found"
            )
        audio = member_of(session, "audio", {})
        output = member_of(audio, "output", {})
        voice = output.get("voice")
        self._audio = audio_format(member_of(audio, "format", {}))
        self._start_id = event.get("event_id")
        self._wanted = Wanted(
            role=text_of(session, "instructions"),
            voice=voice if isinstance(voice, str) else None,
            output_sample_rate=self._audio.rate,
        )
        self._session = {
            "id": self._server.session_id,
            "expires_at": self._server.expires_at,
            "model": self._server.model,
            "status": "active",
            "audio": {"format": self._audio.name, "output": output},
            "delegation": session.get("delegation"),
            "instructions": session.get("instructions"),
        }

    def _hear(self, event: Json) -> Iterator[Hear]:
        pcm = self._audio.decode(audio_bytes(event))
        self._heard_s += len(pcm) / self._audio.rate
        if len(pcm):
            yield Hear(np.zeros_like(pcm) if self._is_muted else pcm, self._audio.rate)

    def _command(self, kind: str, event: Json, client_id: str | None) -> Iterator[Order]:
        if kind == "session.close":
            self._start_id = client_id
            yield HangUp()
        elif kind in ("session.input_audio.mute", "session.input_audio.unmute"):
            self._is_muted = kind.endswith(".mute")
            yield Send(self._event(f"{kind}d", client_id))
        elif kind == "session.update":
            self._session |= {"delegation": member_of(event, "session").get("delegation")}
            yield Send(self._event("session.updated", client_id, session=self._session))
        elif kind in _CONTEXT:
            yield from self._context(kind, event, client_id)
        elif kind == "session.start":
            raise ProtocolError("the session has started already", "session_already_started")
        else:
            code = "unsupported_event" if kind in _UNSUPPORTED else "unknown_event"
            yield Send(self._error("invalid_request_error", code, f"{kind} has no effect here", client_id))

    def _context(self, kind: str, event: Json, client_id: str | None) -> Iterator[Order]:
        """Words for the model: spoken as they are, if so set up; nothing else can be done with them."""
        content = text_of(event, "content")
        is_spoken = self._server.say_commentary and kind == "session.commentary.append" and content
        if is_spoken and len(content or "") > _LONGEST_COMMENTARY:
            message = f"a commentary of {len(content or '')} characters, which would be spoken"
            raise ProtocolError(f"{message}; accepted: at most {_LONGEST_COMMENTARY}", "invalid_value")
        now = {"start_ms": self._media_ms, "end_ms": self._media_ms}
        yield Send(self._event(f"{kind}ed", client_id, **now))
        if is_spoken and content:
            yield Say(content, client_id)
            return
        text = "this model takes no context during a conversation: it is not used"
        yield Send(self._event("info", client_id, code="context_not_used", message=text))

    def tell(self, event: Event) -> Iterator[Message]:
        """Returns what the client is told of an event."""
        if isinstance(event, AudioChunk):
            self._media_ms = round(1000 * event.media_s) + _FRAME_MS
            delta = base64.b64encode(self._audio.encode(event.pcm)).decode()
            # As the reference: audio has neither an id nor a time.
            yield json.dumps({"type": "session.output_audio.delta", "delta": delta})
        elif isinstance(event, TextToken):
            text = event.text if self._has_spoken else event.text.lstrip()  # a transcript begins with a word
            self._has_spoken = self._has_spoken or bool(text)
            yield self._transcript("output", text, event.aligned_frame * _FRAME_MS)
        elif isinstance(event, UserText):
            yield self._transcript("input", event.text, round(1000 * event.start))

    def refused(self, error: ProtocolError) -> Iterator[Message]:
        """An error event about one message."""
        yield self._error("invalid_request_error", error.code, str(error), error.client_event_id)

    def _transcript(self, side: str, text: str, start_ms: int) -> str:
        end_ms = start_ms + _FRAME_MS
        return self._event(f"session.{side}_transcript.delta", delta=text, start_ms=start_ms, end_ms=end_ms)

    def ended(self, end: CallEnd) -> Iterator[Message]:
        """Returns an error, if the end is one, and the session's last figures, if it had begun."""
        if not end.is_good and end.kind != "expired":
            fault = "invalid_request_error" if end.kind in _CLIENT_FAULTS else "server_error"
            yield self._error(fault, end.code or end.kind, end.text, end.client_event_id)
        if self._has_begun:
            yield self._event(
                "session.closed",
                self._start_id if end.kind == "hung_up" else end.client_event_id,
                reason=_CLOSE_REASONS.get(end.kind, "connection_lost"),
                session=self._session,
                usage={"seconds": round(self._heard_s, 3)},
            )

    def _event(self, kind: str, client_id: str | None = None, **fields: object) -> str:
        answers = {} if client_id is None else {"client_event_id": client_id}
        return json.dumps({"type": kind, "event_id": f"event_{next(self._numbers)}", **answers, **fields})

    def _error(self, fault: str, code: str, message: str, client_id: str | None) -> str:
        answers = {} if client_id is None else {"client_event_id": client_id}
        error = {"type": fault, "code": code, "message": message, **answers}
        return self._event("error", client_id, error=error)
