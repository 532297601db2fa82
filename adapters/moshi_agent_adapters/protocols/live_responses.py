"""GPT-Live's responses delegation: a language model answers, and its tools run at the client.

    server  session.delegation.created, response.event: response.created, response.output_item.done,
            response.completed
    client  response.item.create            the output of a tool, once for each call
            response.create                 the model goes on with them
    server  response.event, as before, until there is text, which the bot speaks

A response that fails ends with `response.failed`, and one that nobody waits for any more with
`response.incomplete`. The types in `openai.types.responses` are the reference for what is in a
`response.event`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from moshi_agent.events import ReferenceEnded, ReferenceWanted, Turn
from moshi_agent_adapters.protocols.call_protocol import Message, ProtocolError, SendMessages
from moshi_agent_adapters.protocols.json_events import Json
from moshi_agent_adapters.protocols.live_delegation import MakeEvent, created, delegation_id, over

_log = logging.getLogger("moshi_agent.server")
_MOST_ROUNDS = 8  # of calls and their outputs, for one answer
_MOST_ITEMS = 200  # beside what was said: the oldest are forgotten
_LONGEST_TEXT = 50_000  # characters, of one of them
SPOKEN = (
    "Your answer is spoken to the user. Answer in the user's language, in one or two short sentences of "
    "plain text, without lists, markup or addresses."
)
_NO_OUTPUT = "There is no result yet."
_ROLES = {"user": "user", "bot": "assistant"}


@dataclass(frozen=True)
class FunctionCall:
    """Holds one call of a tool that a language model wants."""

    id: str
    name: str
    arguments: str  # JSON


@dataclass(frozen=True)
class Completion:
    """Holds what a language model has written: text, or calls of tools, or both."""

    text: str = ""
    calls: tuple[FunctionCall, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0


def chat_message(turn: Turn) -> Json:
    """Returns a turn as a message of Chat Completions."""
    return {"role": _ROLES[turn.speaker], "content": turn.text}


class BackendFailed(Exception):
    """Reports a language model that gives no answer, and why."""


class LanguageModel(Protocol):
    """Writes what comes next in a conversation."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    async def complete(self, messages: list[Json], settings: Mapping[str, Any]) -> Completion:
        """Answers messages in the form of Chat Completions. Raises BackendFailed.

        `settings` are those of `session.delegation.responses`.
        """
        ...


@dataclass
class _Response:
    """One response of the language model, as the client sees it."""

    id: str
    delegation: str
    model: str
    created_at: float = field(default_factory=time.time)

    def snapshot(self, status: str, **more: object) -> Json:
        fields = {"id": self.id, "object": "response", "created_at": self.created_at, "model": self.model}
        return {**fields, "status": status, "output": [], "tools": [], **more}


class ResponsesDelegation:
    """Has the requests of one conversation answered by a language model.

    The model reads the whole conversation: what both sides have said, its calls of tools with their outputs,
    and what the client adds.
    """

    def __init__(self, model: LanguageModel, make_event: MakeEvent) -> None:
        self._model = model
        self._make = make_event
        self._settings: Json = {}
        self._notes: list[str] = []  # what holds for the whole conversation
        self._items: list[tuple[float, Json]] = []  # by the media time of what they belong to
        self._outputs: dict[str, Json] = {}  # the messages for outputs of tools, by the call
        self._missing: set[str] = set()  # calls of the open response without an output
        self._proceed: asyncio.Event | None = None  # while outputs are waited for
        self._response: _Response | None = None  # that has begun, and has not ended
        self._request: int | None = None
        self._is_late = False  # outputs have come for a request that is over, and nothing else since
        self._now_s = 0.0
        self._numbers = itertools.count(1)

    # What the client brings

    def configure(self, settings: Json) -> None:
        """Takes settings, those that are given. They hold from the next response on."""
        tools = settings.get("tools")
        if tools is not None and not _are_functions(tools):
            raise ProtocolError("tools; accepted: functions with a name", "unsupported_tool")
        self._settings |= {name: value for name, value in settings.items() if value is not None}

    def note(self, text: str) -> None:
        """Adds what the language model is to know from now on."""
        self._notes = [*self._notes, text][-_MOST_ITEMS:]

    def add_text(self, role: str, text: str) -> None:
        """Adds what a user or an assistant has said in another way. Anybody else's words are notes."""
        self._is_late = False
        if role in ("user", "assistant"):
            self._add({"role": role, "content": text})
        else:
            self.note(text)

    def add_item(self, item: Json) -> None:
        """Takes the output of a tool, or a message. Raises ProtocolError."""
        kind = item.get("type", "message")
        if kind == "function_call_output":
            self._take_output(str(item.get("call_id")), text_in(item.get("output")))
        elif kind == "message" and item.get("role") in ("user", "assistant", "developer", "system"):
            self.add_text(item["role"], text_in(item.get("content")))
        else:
            message = "an item that the back end does not take; accepted: function_call_output, message"
            raise ProtocolError(message, "unsupported_item")

    def _take_output(self, call: str, text: str) -> None:
        if call not in self._outputs:
            raise ProtocolError(f"there is no call {call[:60]!r}", "unknown_call")
        self._outputs[call]["content"] = text
        self._is_late = call not in self._missing
        self._missing.discard(call)

    def create(self) -> bool:
        """Goes on with the response that waits for outputs; True where another one is to be asked for.

        Raises:
            ProtocolError: not all outputs are there.
        """
        if self._missing:
            message = f"no output yet for {', '.join(sorted(self._missing))[:200]}"
            raise ProtocolError(message, "missing_outputs")
        if self._proceed is not None:
            self._proceed.set()
            return False
        is_late, self._is_late = self._is_late, False
        return not is_late

    # Answers

    async def answer(self, wanted: ReferenceWanted, send: SendMessages) -> str | None:
        """Returns what is to be spoken, None where nothing can be. Cancelled when nobody waits for it."""
        self._request, self._now_s, began = wanted.id, wanted.media_s, time.monotonic()
        self._is_late = False
        try:
            return await self._answer(wanted, send)
        except BackendFailed as error:
            _log.warning(
                "%s has no answer after %.1f s: %s",
                *(delegation_id(wanted.id), time.monotonic() - began, error),
                extra={"request": wanted.id, "seconds": time.monotonic() - began},
            )
            failure = {"code": "server_error", "message": str(error)}
            await send(self._end("response.failed", "failed", error=failure))
            return None

    async def _answer(self, wanted: ReferenceWanted, send: SendMessages) -> str:
        for number in range(_MOST_ROUNDS):
            self._response = _Response(
                f"resp_{next(self._numbers)}", delegation_id(wanted.id), self._model.name
            )
            if not number:
                await send([created(wanted, self._make, "responses", response_id=self._response.id)])
            await send([self._wrap("response.created", response=self._response.snapshot("in_progress"))])
            completion = await self._model.complete(self._messages(wanted.turns), self._settings)
            if not completion.calls and not completion.text:
                raise BackendFailed("it answered with nothing")
            self._await_outputs(completion)
            await send(self._tell(completion))
            if not completion.calls:
                return completion.text
            assert self._proceed is not None
            await self._proceed.wait()
            self._proceed = None
        raise BackendFailed(f"it called tools {_MOST_ROUNDS} times and gave no answer")

    def _await_outputs(self, completion: Completion) -> None:
        """Notes calls, each with a place for its output: a model refuses calls that have none."""
        if not completion.calls:
            return
        self._proceed = asyncio.Event()
        self._missing = {call.id for call in completion.calls}
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in completion.calls
        ]
        self._add({"role": "assistant", "content": completion.text or None, "tool_calls": calls})
        for call in completion.calls:
            self._outputs[call.id] = {"role": "tool", "tool_call_id": call.id, "content": _NO_OUTPUT}
            self._add(self._outputs[call.id])

    def _add(self, message: Json) -> None:
        self._items.append((self._now_s, message))
        while len(self._items) > _MOST_ITEMS or self._items[0][1]["role"] == "tool":
            _, forgotten = self._items.pop(0)
            self._outputs.pop(forgotten.get("tool_call_id", ""), None)

    def _messages(self, turns: tuple[Turn, ...]) -> list[Json]:
        """All that was said and done up to now, in the order of time."""
        said = [(turn.start, chat_message(turn)) for turn in turns if turn.text]
        in_order = [message for _, message in sorted([*said, *self._items], key=lambda one: one[0])]
        rules = [SPOKEN, self._settings.get("instructions", ""), *self._notes]
        return [{"role": "system", "content": "\n\n".join(filter(None, rules))}, *in_order]

    # What the client is told

    def over(self, event: ReferenceEnded) -> Iterator[Message]:
        """Tells of the end of a request: its response goes no further."""
        if event.id == self._request:
            self._request, self._proceed = None, None
            self._missing.clear()
            details = {"reason": event.reason}
            yield from self._end("response.incomplete", "incomplete", incomplete_details=details)
        yield from over(event, self._make)

    def _tell(self, completion: Completion) -> Iterator[Message]:
        assert self._response is not None
        id = self._response.id
        for place, call in enumerate(completion.calls):
            item = {"id": f"fc_{call.id}", "type": "function_call", "status": "completed", "call_id": call.id}
            item |= {"name": call.name, "arguments": call.arguments}
            yield self._wrap("response.output_item.done", output_index=place, item=item)
        if completion.text:
            part = {"type": "output_text", "text": completion.text, "annotations": []}
            item = {"id": f"msg_{id}", "type": "message", "role": "assistant", "status": "completed"}
            item |= {"content": [part]}
            yield self._wrap("response.output_item.done", output_index=len(completion.calls), item=item)
        given, written = completion.input_tokens, completion.output_tokens
        usage = {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + written,
        }
        yield from self._end("response.completed", "completed", usage=usage)

    def _end(self, kind: str, status: str, **more: object) -> Iterator[Message]:
        if self._response is not None:
            yield self._wrap(kind, response=self._response.snapshot(status, **more))
            self._response = None

    def _wrap(self, kind: str, **fields: object) -> Message:
        assert self._response is not None
        event = {"type": kind, "sequence_number": next(self._numbers), **fields}
        return self._make("response.event", delegation_id=self._response.delegation, event=event)


def text_in(content: object) -> str:
    """Returns the text of a message or an output, which may be in parts. Raises ProtocolError."""
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        content = " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
    if not isinstance(content, str) or len(content) > _LONGEST_TEXT:
        message = f"content; accepted: text of at most {_LONGEST_TEXT} characters, or parts with text"
        raise ProtocolError(message, "invalid_value")
    return content


def _are_functions(tools: object) -> bool:
    return isinstance(tools, list) and all(
        isinstance(tool, dict) and tool.get("type") == "function" and isinstance(tool.get("name"), str)
        for tool in tools
    )
