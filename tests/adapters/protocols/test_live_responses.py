"""GPT-Live's responses delegation without a server: what a client is told, and what a model is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

pytest.importorskip("av", reason="needs the extra `server`: pip install moshi-agent[server]")

from moshi_agent import ReferenceEnded, ReferenceWanted, Turn
from moshi_agent_adapters.protocols.call_protocol import Message, ProtocolError
from moshi_agent_adapters.protocols.live_responses import (
    BackendFailed,
    Completion,
    FunctionCall,
    LanguageModel,
    ResponsesDelegation,
)

CALLS = (FunctionCall("a", "find", '{"order": 4}'), FunctionCall("b", "find", '{"order": 5}'))


class _Model:
    """Gives one completion after the other, and keeps what it was asked."""

    name = "m"

    def __init__(self, *completions: Completion | Exception) -> None:
        self.completions = list(completions)
        self.asked: list[list[dict[str, Any]]] = []

    async def complete(self, messages: list[dict[str, Any]], settings: Mapping[str, Any]) -> Completion:
        self.asked.append([dict(message) for message in messages])
        completion = self.completions.pop(0)
        if isinstance(completion, Exception):
            raise completion
        return completion


class _Call:
    """One conversation's responses, and the events that a client was sent."""

    def __init__(self, model: LanguageModel) -> None:
        self.events: list[dict[str, Any]] = []
        self._sent = asyncio.Event()
        self.responses = ResponsesDelegation(model, self._make)

    def _make(self, kind: str, client_id: str | None = None, **fields: Any) -> str:
        return json.dumps({"type": kind, "event_id": "e", **fields})

    async def send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            event = json.loads(message)
            live = pytest.importorskip("openai.types.live", reason="the openai package is not installed")
            from pydantic import TypeAdapter

            TypeAdapter(live.ServerEvent).validate_python(event)
            self.events.append(event)
            self._sent.set()

    async def until(self, kind: str, times: int = 1) -> None:
        """Waits for so many events of a response, of this type."""
        async with asyncio.timeout(30):
            while self.inner.count(kind) < times:
                self._sent.clear()
                await self._sent.wait()

    @property
    def inner(self) -> list[str]:
        return [event["event"]["type"] for event in self.events if event["type"] == "response.event"]

    def ask(self, number: int = 1) -> asyncio.Task[str | None]:
        turns = (
            Turn(speaker="bot", text="Hello.", start=1.0, end=2.0),
            Turn(speaker="user", text="Where is it?", start=3.0, end=4.0),
        )
        wanted = ReferenceWanted(frame=50, media_s=4.0, wall_s=0.0, id=number, by="rule", turns=turns)
        return asyncio.create_task(self.responses.answer(wanted, self.send))

    async def end(self, reason: Any, number: int = 1) -> None:
        ended = ReferenceEnded(frame=60, media_s=5.0, wall_s=0.0, id=number, reason=reason)
        await self.send(self.responses.over(ended))

    def give(self, call: str, text: str) -> None:
        self.responses.add_item({"type": "function_call_output", "call_id": call, "output": text})


def test_a_text_is_the_answer_and_the_client_is_told_of_it() -> None:
    async def talk() -> None:
        model = _Model(Completion("It is here."))
        call = _Call(model)
        call.responses.configure({"instructions": "You keep a shop."})
        assert await call.ask() == "It is here."
        created = call.events[0]
        assert created["type"] == "session.delegation.created"
        assert created["delegation"]["target"] == "responses"
        assert created["offset_ms"] == 4000
        assert call.inner == ["response.created", "response.output_item.done", "response.completed"]
        system, *said = model.asked[0]
        assert "You keep a shop." in system["content"]
        assert said == [
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Where is it?"},
        ]
        await call.end("answered")
        assert call.inner[-1] == "response.completed"

    asyncio.run(talk())


def test_tools_run_at_the_client_and_their_outputs_come_back() -> None:
    async def talk() -> None:
        model = _Model(Completion(calls=CALLS), Completion("Both are here."))
        call = _Call(model)
        answer = call.ask()
        await call.until("response.completed")
        items = [event["event"]["item"] for event in call.events if "item" in event.get("event", {})]
        assert [(item["call_id"], item["name"]) for item in items] == [("a", "find"), ("b", "find")]
        call.give("a", "Berlin")
        with pytest.raises(ProtocolError, match="no output yet for b"):
            call.responses.create()
        call.give("b", "Paris")
        assert not call.responses.create()
        assert await answer == "Both are here."
        tools = [message for message in model.asked[1] if message["role"] == "tool"]
        assert [(tool["tool_call_id"], tool["content"]) for tool in tools] == [
            ("a", "Berlin"),
            ("b", "Paris"),
        ]

    asyncio.run(talk())


def test_an_output_that_comes_after_the_end_is_kept_and_asks_for_nothing() -> None:
    async def talk() -> None:
        model = _Model(Completion(calls=CALLS), Completion("Both are here."))
        call = _Call(model)
        answer = call.ask()
        await call.until("response.completed")
        answer.cancel()
        await call.end("interrupted")
        assert call.events[-1]["code"] == "delegation_interrupted"
        call.give("a", "Berlin")
        assert not call.responses.create()
        assert await call.ask(2) == "Both are here."
        tools = [message["content"] for message in model.asked[1] if message["role"] == "tool"]
        assert tools == ["Berlin", "There is no result yet."]
        assert call.responses.create()  # nothing is open: another answer is wanted

    asyncio.run(talk())


@pytest.mark.parametrize("completion", [BackendFailed("no answer within 5 s"), Completion()])
def test_a_model_that_fails_is_told_of_and_answers_nothing(
    completion: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk() -> _Call:
        call = _Call(_Model(completion))
        assert await call.ask() is None
        return call

    call = asyncio.run(talk())
    assert call.inner == ["response.created", "response.failed"]
    assert call.events[-1]["event"]["response"]["error"]["message"]
    assert "delegation_1 has no answer" in caplog.text


def test_a_model_that_only_calls_tools_is_stopped() -> None:
    async def talk() -> str | None:
        call = _Call(_Model(*(Completion(calls=(FunctionCall(f"c{n}", "find", "{}"),)) for n in range(20))))
        answer = call.ask()
        for number in range(8):
            await call.until("response.completed", number + 1)
            call.give(f"c{number}", "nothing")
            call.responses.create()
        return await answer

    assert asyncio.run(talk()) is None


def test_a_response_that_runs_when_its_request_ends_is_incomplete() -> None:
    async def talk() -> None:
        call = _Call(_Hanging())
        answer = call.ask()
        await call.until("response.created")
        answer.cancel()
        await call.end("timed_out")
        assert call.inner == ["response.created", "response.incomplete"]

    asyncio.run(talk())


class _Hanging:
    name = "m"

    async def complete(self, messages: list[dict[str, Any]], settings: Mapping[str, Any]) -> Completion:
        await asyncio.Event().wait()
        raise AssertionError("waits for ever")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call_output", "call_id": "none", "output": "x"},
        {"type": "reasoning"},
        {"type": "message", "role": "user", "content": 3},
        {"role": "user", "content": "x" * 60_000},
    ],
)
def test_an_item_that_cannot_be_taken_is_refused(item: dict[str, Any]) -> None:
    call = _Call(_Model())
    with pytest.raises(ProtocolError):
        call.responses.add_item(item)


@pytest.mark.parametrize("tools", ["find", [{"type": "web_search"}], [{"type": "function"}]])
def test_tools_that_no_client_can_run_are_refused(tools: Any) -> None:
    with pytest.raises(ProtocolError, match="accepted: functions with a name"):
        _Call(_Model()).responses.configure({"tools": tools})
