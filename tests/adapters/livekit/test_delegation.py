"""A backend that writes what Moshi speaks, and calls tools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("livekit.agents", reason="needs the extra `livekit`: pip install moshi-agent[livekit]")

from livekit.agents import llm

from moshi_agent_adapters.livekit.delegation import Delegation
from tests.adapters.livekit.livekit_calls import ScriptedLLM


class Speaker:
    """Keeps what a conversation is told to do, in order."""

    def __init__(self) -> None:
        self.tools = llm.ToolContext.empty()
        self.done: list[tuple[str, object]] = []
        self.calls: list[llm.FunctionCall] = []

    async def say(self, text: str) -> None:
        self.done.append(("say", text))

    async def hold(self, seconds: float) -> None:
        self.done.append(("hold", bool(seconds)))

    def call_function(self, call: llm.FunctionCall) -> None:
        self.done.append(("call", call.name))
        self.calls.append(call)

    def fail(self, error: Exception, *, recoverable: bool) -> None:
        self.done.append(("fail", recoverable))


def _said(text: str, item_id: str = "one") -> llm.InputTranscriptionCompleted:
    return llm.InputTranscriptionCompleted(
        item_id=item_id, transcript=text, is_final=True, turn_started_at=float(len(item_id))
    )


def _output(call: llm.FunctionCall, reply_required: bool = True) -> llm.FunctionCallOutput:
    return llm.FunctionCallOutput(
        call_id=call.call_id, output="4", is_error=False, reply_required=reply_required
    )


def run(
    backend: ScriptedLLM, script: Callable[[Delegation, Speaker], Awaitable[None]]
) -> tuple[Speaker, Delegation]:
    speaker = Speaker()
    delegation = Delegation(backend, speaker)

    async def main() -> None:
        async with asyncio.timeout(10):
            await script(delegation, speaker)
        await delegation.aclose()

    asyncio.run(main())
    return speaker, delegation


async def _until(holds: Callable[[], object]) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("in vain")


def test_the_bot_is_held_until_the_backend_has_answered() -> None:
    backend = ScriptedLLM("The answer is four.")

    async def script(delegation: Delegation, speaker: Speaker) -> None:
        delegation.instructions = "Be brief."
        delegation.bot_said("Hello.", began_at=1.0)
        delegation.user_said(_said("How much is two plus two?"), is_for_backend=True)
        await _until(lambda: len(speaker.done) == 2)

    speaker, _ = run(backend, script)
    assert speaker.done == [("hold", True), ("say", "The answer is four.")]
    told = [(item.role, item.text_content) for item in backend.asked[0].messages()]
    assert told == [
        ("system", "Be brief."),
        ("assistant", "Hello."),
        ("user", "How much is two plus two?"),
    ]


def test_a_tool_runs_between_two_rounds() -> None:
    backend = ScriptedLLM(("add", {"numbers": [2, 2]}), "Four.")

    async def script(delegation: Delegation, speaker: Speaker) -> None:
        delegation.ask()
        await _until(lambda: speaker.calls)
        delegation.append([_output(speaker.calls[0])])
        await _until(lambda: ("say", "Four.") in speaker.done)

    speaker, _ = run(backend, script)
    assert speaker.done == [("hold", True), ("call", "add"), ("say", "Four.")]
    assert [item.type for item in backend.asked[1].items] == ["function_call", "function_call_output"]


def test_a_tool_that_wants_no_reply_lets_the_bot_speak_again() -> None:
    async def script(delegation: Delegation, speaker: Speaker) -> None:
        delegation.ask()
        await _until(lambda: speaker.calls)
        delegation.append([_output(speaker.calls[0], reply_required=False)])
        await _until(lambda: len(speaker.done) == 3)

    speaker, _ = run(ScriptedLLM(("hang_up", {})), script)
    assert speaker.done[-1] == ("hold", False)


def test_whoever_asks_anew_gives_up_the_answer_before() -> None:
    backend = ScriptedLLM(("add", {}), "Five.")

    async def script(delegation: Delegation, speaker: Speaker) -> None:
        delegation.user_said(_said("Two plus two?"), is_for_backend=True)
        await _until(lambda: speaker.calls)
        delegation.user_said(_said("No, two plus three.", "other"), is_for_backend=True)
        await _until(lambda: ("say", "Five.") in speaker.done)
        delegation.append([_output(speaker.calls[0])])  # too late: it is noted, and nobody waits for it
        await asyncio.sleep(0.05)

    speaker, _ = run(backend, script)
    assert [what for what, _ in speaker.done] == ["hold", "call", "hold", "say"]


def test_what_is_not_for_the_backend_is_only_noted() -> None:
    backend = ScriptedLLM("Yes.")

    async def script(delegation: Delegation, speaker: Speaker) -> None:
        delegation.user_said(_said("Nice day."), is_for_backend=False)
        await asyncio.sleep(0.05)
        assert not speaker.done
        delegation.ask("Answer with one word.")
        await _until(lambda: len(speaker.done) == 2)

    run(backend, script)
    assert [item.text_content for item in backend.asked[0].messages()] == [
        "Answer with one word.",
        "Nice day.",
    ]


def test_a_backend_that_fails_lets_the_bot_speak_again() -> None:
    async def script(delegation: Delegation, speaker: Speaker) -> None:
        delegation.ask()
        await _until(lambda: len(speaker.done) == 3)

    speaker, _ = run(ScriptedLLM(ValueError("no such model")), script)
    assert speaker.done == [("hold", True), ("fail", True), ("hold", False)]


def test_a_backend_that_only_calls_tools_is_stopped() -> None:
    async def script(delegation: Delegation, speaker: Speaker) -> None:
        delegation.ask()
        for number in range(1, 9):
            await _until(lambda number=number: len(speaker.calls) == number)
            delegation.append([_output(speaker.calls[-1])])
        await _until(lambda: ("fail", True) in speaker.done)

    speaker, _ = run(ScriptedLLM(*[("add", {})] * 9), script)
    assert len(speaker.calls) == 8
