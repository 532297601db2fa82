"""A conversation whose words an LLM writes, and Moshi speaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Protocol

from livekit.agents import llm
from livekit.agents.types import NOT_GIVEN
from livekit.agents.utils import aio

from moshi_agent import SessionClosed

_log = logging.getLogger("livekit.plugins.moshi")
_MOST_ROUNDS = 8  # of calls and their outputs, for one answer
_LONGEST_ANSWER_S = 60.0  # that Moshi keeps silent for the backend and its tools


class Speaker(Protocol):
    """Speaks for the backend, and has its tools run."""

    @property
    def tools(self) -> llm.ToolContext:
        """What it may call."""
        ...

    async def say(self, text: str) -> None:
        """Speaks a text."""
        ...

    async def hold(self, seconds: float) -> None:
        """Says nothing of its own for so long; 0 ends that."""
        ...

    def call_function(self, call: llm.FunctionCall) -> None:
        """Has a tool run, whose output comes by `Delegation.append`."""
        ...

    def fail(self, error: Exception, *, recoverable: bool) -> None:
        """Tells that there will be no answer."""
        ...


class Delegation:
    """Asks the backend, one answer at a time: whoever asks anew gives up the one before.

    Its context is the whole conversation: what both have said, and calls with their outputs.
    """

    def __init__(self, backend: llm.LLM[Any], speaker: Speaker) -> None:
        self._backend = backend
        self._speaker = speaker
        self._context = llm.ChatContext.empty()
        self._answer: asyncio.Task[None] | None = None
        self._outputs: dict[str, asyncio.Future[llm.FunctionCallOutput]] = {}  # to come, by call_id
        self.instructions = ""
        self.tool_choice: llm.ToolChoice | None = None

    async def aclose(self) -> None:
        """Gives up the answer that is being made."""
        if self._answer is not None:
            await aio.cancel_and_wait(self._answer)

    # What the conversation brings

    def user_said(self, transcript: llm.InputTranscriptionCompleted, *, is_for_backend: bool) -> None:
        """Notes what the user has said, and answers it if it is for the backend."""
        message = llm.ChatMessage(id=transcript.item_id, role="user", content=[transcript.transcript])
        if transcript.turn_started_at is not None:
            message.created_at = transcript.turn_started_at
        self._context.insert(message)
        if is_for_backend:
            self.ask()

    def bot_said(self, text: str, began_at: float) -> None:
        """Notes a turn of the bot, its own words or ours."""
        self._context.insert(llm.ChatMessage(role="assistant", content=[text], created_at=began_at))

    def append(self, items: Iterable[llm.ChatItem]) -> None:
        """Takes what is new in LiveKit's chat context: messages, and outputs that may be waited for."""
        for item in items:
            if self._context.get_by_id(item.id) is None:
                self._context.insert(item)
            if isinstance(item, llm.FunctionCallOutput):
                output = self._outputs.pop(item.call_id, None)
                if output is not None and not output.done():
                    output.set_result(item)

    # Answers

    def ask(self, instructions: str | None = None) -> None:
        """Begins an answer to the conversation so far, following these instructions too."""
        if self._answer is not None:
            self._answer.cancel()
        self._answer = asyncio.create_task(self._make_answer(instructions), name="moshi.delegation")

    async def _make_answer(self, instructions: str | None) -> None:
        try:
            await self._speaker.hold(_LONGEST_ANSWER_S)
            async with asyncio.timeout(_LONGEST_ANSWER_S):
                await self._converse(instructions)
        except SessionClosed:
            pass  # the call ended meanwhile
        except Exception as error:  # whatever it is, the call goes on without this answer
            _log.exception("the backend gave no answer: %s", error)
            self._speaker.fail(error, recoverable=True)
            await self._speaker.hold(0)

    async def _converse(self, instructions: str | None) -> None:
        for _ in range(_MOST_ROUNDS):
            text, calls = await self._chat(instructions)
            if text:
                await self._speaker.say(text)
            if not calls:
                if not text:
                    await self._speaker.hold(0)
                return
            outputs = await self._run(calls)
            if not any(output.reply_required for output in outputs):
                await self._speaker.hold(0)
                return
        raise llm.RealtimeError(f"the backend called tools {_MOST_ROUNDS} times and gave no answer")

    async def _chat(self, instructions: str | None) -> tuple[str, list[llm.FunctionCall]]:
        context = self._context.copy()
        for text in (instructions, self.instructions):
            if text:
                context.items.insert(0, llm.ChatMessage(role="system", content=[text]))
        stream = self._backend.chat(
            chat_ctx=context,
            tools=self._speaker.tools.flatten(),
            tool_choice=NOT_GIVEN if self.tool_choice is None else self.tool_choice,
        )
        async with stream:
            answer = await stream.collect()
        calls = [
            llm.FunctionCall(call_id=call.call_id, name=call.name, arguments=call.arguments)
            for call in answer.tool_calls
        ]
        return answer.text.strip(), calls

    async def _run(self, calls: list[llm.FunctionCall]) -> list[llm.FunctionCallOutput]:
        """Has tools run; returns their outputs, in the order of the calls."""
        loop = asyncio.get_running_loop()
        waiting = [self._outputs.setdefault(call.call_id, loop.create_future()) for call in calls]
        for call in calls:
            self._context.insert(call)
            self._speaker.call_function(call)
        return await asyncio.gather(*waiting)
