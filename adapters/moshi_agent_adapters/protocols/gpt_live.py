"""OpenAI's full-duplex protocol "GPT-Live" over a websocket: JSON events, audio in base64.

    client  session.start, session.input_audio.{append,mute,unmute}, session.update, session.close,
            session.{instructions,thinking,commentary}.append, session.output_audio.fixture.play,
            response.item.create, response.create
    server  session.started, session.output_audio.delta, session.{output,input}_transcript.delta,
            session.input_audio.{muted,unmuted}, session.delegation.created, response.event,
            session.output_audio.fixture.{playing,played}, session.updated, session.closed, info, error

The output is continuous, silence included, and there are no turns. The types in `openai.types.live` are the
reference. Input is transcribed where the engine has a recogniser. What the conversation asks for is looked
up by the client (`live_delegation.py`) or by a language model (`live_responses.py`). Whatever else it is
given in mid-conversation is acknowledged, and an `info` event says that it has no effect.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from moshi_agent.audio.framing import Samples
from moshi_agent.engine.asking import AskConfig
from moshi_agent.events import (
    AudioChunk,
    Event,
    ReferenceEnded,
    ReferenceWanted,
    TextToken,
    UserSaid,
    UserText,
)
from moshi_agent_adapters.bot_turn import BotTurn, begins_turn
from moshi_agent_adapters.protocols.call_protocol import (
    Ask,
    CallEnd,
    EndKind,
    HangUp,
    Hear,
    Hold,
    Message,
    Order,
    ProtocolError,
    Say,
    Send,
    Wanted,
)
from moshi_agent_adapters.protocols.json_events import Json, audio_bytes, member_of, parse_event, text_of
from moshi_agent_adapters.protocols.live_audio import PCM_24K, LiveAudio, audio_format
from moshi_agent_adapters.protocols.live_delegation import ClientDelegation
from moshi_agent_adapters.protocols.live_fixture import LiveFixture
from moshi_agent_adapters.protocols.live_responses import LanguageModel, ResponsesDelegation, text_in
from moshi_agent_adapters.protocols.turn_text import TurnText

_FRAME_MS = 80
_CONTEXT = ("session.instructions.append", "session.thinking.append", "session.commentary.append")
_RESPONSES = ("response.create", "response.item.create")
_UNSUPPORTED = ("decision.create", "decision.item.create", "decision.item.delete")
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
    takes_references: bool = False  # the model, as it was trained
    client_asking: AskConfig | None = None  # when clients look something up
    looks_up: bool = False  # the server does, for clients that do not say that they will
    backend: LanguageModel | None = None  # that does it for those who want it so
    backend_asking: AskConfig | None = None


class LiveProtocol:
    """Translates one call over `/v1/live/sessions`."""

    name: ClassVar[str] = "gpt-live"

    def __init__(self, server: LiveServer) -> None:
        self._wanted: Wanted | None = None
        self._server = server
        self._audio: LiveAudio = PCM_24K
        self._session: Json = {}
        self._is_muted = False
        self._has_begun = False
        self._turn: BotTurn | None = None
        self._bot_text, self._user_text = TurnText(), TurnText()
        self._heard_s = 0.0
        self._media_ms = 0
        self._numbers = itertools.count(1)
        self._start_id: str | None = None
        self._client = ClientDelegation(self._event, server.takes_references)
        self._responses: ResponsesDelegation | None = None  # where a language model answers
        self._fixture: LiveFixture | None = None  # that is being played

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
        if self._target == "responses" and self._responses is None:
            message = "this server has no back end (--backend-url): nothing is delegated"
            yield self._event("info", self._start_id, code="no_backend", message=message)

    @property
    def _target(self) -> str:
        """Who looks things up: "client" or "responses"."""
        return (self._session.get("delegation") or {}).get("type", "client")

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
            error.is_fatal = kind == "session.start" and not self._has_begun
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
        delegation = _delegation_of(session)
        if delegation.get("type") == "responses" and self._server.backend is not None:
            self._responses = self._begin_responses(self._server.backend, session, delegation)
        self._wanted = Wanted(
            role=text_of(session, "instructions"),
            voice=voice if isinstance(voice, str) else None,
            output_sample_rate=self._audio.rate,
            asking=self._asking(delegation.get("type")),
            lookup=self._responses and self._responses.answer,
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

    def _asking(self, target: str | None) -> AskConfig | None:
        if target is None and self._server.looks_up:
            return None
        if target in (None, "client"):
            return self._server.client_asking
        return self._server.backend_asking if self._responses is not None else None

    def _begin_responses(self, model: LanguageModel, session: Json, delegation: Json) -> ResponsesDelegation:
        responses = ResponsesDelegation(model, self._event)
        instructions = text_of(session, "instructions")
        settings = member_of(delegation, "responses", {})
        responses.configure({"instructions": instructions} | settings)
        items = session.get("input") or []
        if not isinstance(items, list):
            raise ProtocolError("session.input; accepted: a list of messages", "invalid_value")
        for item in cast("list[Any]", items):
            if not isinstance(item, dict):
                raise ProtocolError("session.input; accepted: a list of messages", "invalid_value")
            responses.add_text(str(item.get("role")), text_in(item.get("content")))
        return responses

    def _hear(self, event: Json) -> Iterator[Hear]:
        pcm = self._audio.decode(audio_bytes(event))
        self._heard_s += len(pcm) / self._audio.rate
        if len(pcm):
            is_muted = self._is_muted or self._fixture is not None
            yield Hear(np.zeros_like(pcm) if is_muted else pcm, self._audio.rate)

    def _command(self, kind: str, event: Json, client_id: str | None) -> Iterator[Order]:
        if kind == "session.close":
            self._start_id = client_id
            yield HangUp()
        elif kind in ("session.input_audio.mute", "session.input_audio.unmute"):
            self._is_muted = kind.endswith(".mute")
            yield Send(self._event(f"{kind}d", client_id))
        elif kind == "session.update":
            self._update(member_of(event, "session"))
            yield Send(self._event("session.updated", client_id, session=self._session))
        elif kind == "session.output_audio.fixture.play":
            yield from self._play(event, client_id)
        elif kind in _CONTEXT:
            yield from self._context(kind, event, client_id)
        elif kind in _RESPONSES and self._responses is not None:
            yield from self._respond(kind, event, self._responses, client_id)
        elif kind == "session.start":
            raise ProtocolError("the session has started already", "session_already_started")
        elif kind in _RESPONSES:
            why = "no language model answers in this session; accepted: delegation of the type `responses`"
            raise ProtocolError(f"{kind}: {why}, and a server with --backend-url", "unsupported_event")
        elif kind in _UNSUPPORTED:
            message = (
                f"{kind}: this server takes no decisions; accepted: delegation to a client or to responses"
            )
            raise ProtocolError(message, "unsupported_event")
        else:
            raise ProtocolError(f"{kind} has no effect here", "unknown_event")

    def _update(self, changes: Json) -> None:
        delegation = _delegation_of(changes)
        target = delegation.get("type", self._target)
        if target != self._target:
            message = f"delegation to {target}; accepted: {self._target}, as the session has begun"
            raise ProtocolError(message, "immutable_field")
        settings = member_of(delegation, "responses", {})
        if self._responses is not None:
            self._responses.configure(settings)
        if delegation:
            before = self._session.get("delegation") or {}
            merged = {**(before.get("responses") or {}), **settings}
            kept = {"responses": merged} if target == "responses" else {}
            self._session["delegation"] = {**before, **delegation, **kept}

    def _play(self, event: Json, client_id: str | None) -> Iterator[Order]:
        """Exact sound instead of the bot's, which neither hears nor speaks meanwhile."""
        self._check_no_fixture()
        fixture = LiveFixture(audio_bytes(event), self._audio.rate)
        yield Hold(fixture.held_s)
        self._fixture = fixture
        yield Send(self._event("session.output_audio.fixture.playing", client_id))

    def _check_no_fixture(self) -> None:
        if self._fixture is not None:
            raise ProtocolError("an audio fixture is being played", "fixture_active")

    def _respond(
        self, kind: str, event: Json, responses: ResponsesDelegation, client_id: str | None
    ) -> Iterator[Order]:
        if kind == "response.item.create":
            responses.add_item(member_of(event, "item"))
        elif responses.create():
            yield Ask()

    def _context(self, kind: str, event: Json, client_id: str | None) -> Iterator[Order]:
        """Words for the model, and what can be done with them."""
        self._check_no_fixture()
        content, name = text_of(event, "content"), text_of(event, "delegation_id")
        is_commentary = kind == "session.commentary.append"
        if is_commentary and len(content or "") > _LONGEST_COMMENTARY:
            message = f"a commentary of {len(content or '')} characters, which would be spoken"
            raise ProtocolError(f"{message}; accepted: at most {_LONGEST_COMMENTARY}", "invalid_value")
        if name is not None and self._responses is not None:
            raise ProtocolError("delegation_id; accepted: null, as the back end answers", "invalid_value")
        orders = list(self._use(kind, content, name, client_id)) if content else []
        now = {"start_ms": self._media_ms, "end_ms": self._media_ms}
        yield Send(self._event(f"{kind}ed", client_id, **now))
        if not orders and not (content and self._responses is not None):
            text = "this model takes no context during a conversation: it is not used"
            yield Send(self._event("info", client_id, code="context_not_used", message=text))
        yield from orders

    def _use(self, kind: str, content: str, name: str | None, client_id: str | None) -> Iterator[Order]:
        is_commentary = kind == "session.commentary.append"
        if is_commentary and name is not None:
            yield from self._client.comment(content, name, client_id)
        elif is_commentary and self._server.say_commentary:
            yield Say(content, client_id, alone=True)
        elif self._responses is not None and is_commentary:
            self._responses.add_text("user", content)  # who finds the words for it
            yield Ask()
        elif self._responses is not None:
            self._responses.note(content)
        elif kind == "session.thinking.append":
            yield from self._client.think(content, name, client_id)

    def tell(self, event: Event) -> Iterator[Message]:
        """Returns what the client is told of an event."""
        self._follow_turn(event)
        if isinstance(event, AudioChunk):
            self._media_ms = round(1000 * event.media_s) + _FRAME_MS
            yield from self._sound(event.pcm)
        elif isinstance(event, TextToken):
            if text := self._bot_text.add(event.text):
                yield self._transcript("output", text, event.aligned_frame * _FRAME_MS)
        elif isinstance(event, UserText):
            if text := self._user_text.add(event.text):
                yield self._transcript("input", text, round(1000 * event.start))
        elif isinstance(event, UserSaid):
            self._user_text = TurnText()
        elif isinstance(event, ReferenceWanted | ReferenceEnded) and self._responses is None:
            yield from self._client.tell(event)
        elif isinstance(event, ReferenceEnded) and self._responses is not None:
            yield from self._responses.over(event)

    def _follow_turn(self, event: Event) -> None:
        if self._turn is None and begins_turn(event):
            self._turn, self._bot_text = BotTurn(), TurnText()
        if self._turn is not None and self._turn.ends_with(event):
            self._turn = None

    def _sound(self, pcm: Samples) -> Iterator[Message]:
        fixture = self._fixture
        pcm = pcm if fixture is None else fixture.next(len(pcm))
        delta = base64.b64encode(self._audio.encode(pcm)).decode()
        # As the reference: audio has neither an id nor a time.
        yield json.dumps({"type": "session.output_audio.delta", "delta": delta})
        if fixture is not None and fixture.is_over:
            self._fixture = None
            yield self._event("session.output_audio.fixture.played")

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


def _delegation_of(session: Json) -> Json:
    """Returns what `session.delegation` asks for, empty where it says nothing. Raises ProtocolError."""
    if session.get("triggers"):
        raise ProtocolError("session.triggers; accepted: none, this server takes no decisions", "unsupported")
    delegation = member_of(session, "delegation", {})
    if delegation.get("type", "client") not in ("client", "responses"):
        message = f"delegation to {str(delegation['type'])[:60]}; accepted: client, responses"
        raise ProtocolError(message, "unsupported_delegation")
    return delegation
