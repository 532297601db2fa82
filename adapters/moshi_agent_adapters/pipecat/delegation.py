"""A worker of Pipecat's that looks things up, with tools of its own, for what Moshi then says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loguru import logger
from pipecat.processors.aggregators.llm_context import LLMContextMessage
from pipecat.services.llm_service import LLMService
from pipecat.workers.llm.backend_llm_worker import (
    BackendError,
    BackendEvent,
    BackendIdle,
    BackendLLMWorker,
    BackendOutput,
    BackendToolCall,
    # Both sides of Pipecat's own use these two; there are no others. Tested with pipecat-ai 1.14.0.
    _BackendSession,  # pyright: ignore[reportPrivateUsage]
    _render_transcript_request,  # pyright: ignore[reportPrivateUsage]
)

from moshi_agent import AskConfig, MoshiAgentError, ReferenceEnded, ReferenceWanted, Session, Turn

_ATTACH_S = 10.0  # for the worker to become ready
_ROLES = {"user": "user", "bot": "assistant"}


def _always(turns: Sequence[Turn]) -> bool:
    return True


@dataclass
class ClientDelegation:
    """Has a worker of Pipecat's answer what the user says, in Moshi's voice.

    As `OpenAILiveLLMService.ClientDelegation`: each request is what has been said since the last one, which
    the worker answers with its own model and its own tools. What it wants to have heard, Moshi says word for
    word; its notes are not used. There is one request at a time: the next one takes its place, and a user
    who goes on speaking cancels it.

    Parameters:
        backend: The worker, or the name of one that is registered elsewhere. One that is given here is
            registered when the service is set up, so the pipeline has to run under a WorkerRunner.
        timeout_secs: How long an answer may take. Moshi is silent until then.
        when: Asked with all turns so far, whenever the user has said something: whether to delegate.
        filler: What Moshi says while it waits, if it waits for more than half a second.
        apology: What Moshi says where no answer comes.
    """

    backend: BackendLLMWorker | str
    timeout_secs: float = 30.0
    when: Callable[[Sequence[Turn]], bool] = _always
    filler: str | None = None
    apology: str | None = "I am sorry, I cannot tell you that now."

    @property
    def asking(self) -> AskConfig:
        """Returns how a conversation is to ask."""
        return AskConfig(
            when=self.when, timeout_s=self.timeout_secs, filler=self.filler, apology=self.apology
        )


class Delegations:
    """Puts the requests of one service to its worker.

    Args:
        service: whose tasks and frames it uses.
        config: of the delegation.
    """

    def __init__(self, service: LLMService[Any], config: ClientDelegation) -> None:
        self._service = service
        self._config = config
        self._task: asyncio.Task[None] | None = None
        self._backend: _BackendSession | None = None
        self._is_attached = asyncio.Event()
        self._answer: asyncio.Future[str | None] | None = None  # of the open request
        self._answered = False  # and more of the answer may follow
        self._session: Session | None = None
        self._delegated_until_s: float | None = None  # media time up to which the worker knows what was said

    async def setup(self) -> None:
        """Registers the worker, if it is not registered elsewhere."""
        if isinstance(self._config.backend, BackendLLMWorker):
            await self._service.pipeline_worker.add_workers(self._config.backend)

    def attach(self) -> None:
        """Begins a conversation with the worker."""
        self._delegated_until_s = None
        self._task = self._service.create_task(self._converse(), f"{self._service}::backend")

    async def detach(self) -> None:
        """Ends it, which stops the worker's work."""
        task, self._task = self._task, None
        if task is not None:
            await self._service.cancel_task(task)

    def begun(self, session: Session) -> None:
        """Takes the conversation in which answers are said."""
        self._session = session

    async def answer(self, wanted: ReferenceWanted) -> str | None:
        """Returns what is to be said, None where no answer comes. For `Engine.session(on_reference=)`."""
        self._answer, self._answered = asyncio.get_running_loop().create_future(), False
        answer = self._answer
        try:
            async with asyncio.timeout(_ATTACH_S):
                await self._is_attached.wait()
            if self._backend is None:
                raise RuntimeError("the worker is not attached")
            await self._backend.send(self._request(wanted.turns))
        except Exception as error:  # whatever the bus and the worker raise: the call goes on
            await self._fail(f"delegation {wanted.id} failed: {error}", error)
            return None
        return await answer

    async def ended(self, event: ReferenceEnded) -> None:
        """Stops the worker's work on a request for which nobody waits any more."""
        if event.reason in ("interrupted", "timed_out"):
            self._answer, self._answered = None, False
            await self.detach()
            self.attach()
        if event.reason == "timed_out":
            await self._fail(f"delegation {event.id} timed out after {self._config.timeout_secs:g} s")

    def _request(self, turns: Sequence[Turn]) -> str:
        since, is_first = self._delegated_until_s, self._delegated_until_s is None
        new = [turn for turn in turns if turn.text and (since is None or turn.start > since)]
        self._delegated_until_s = max([since or 0.0, *(turn.start for turn in new)])
        messages: list[LLMContextMessage] = [
            {"role": _ROLES[turn.speaker], "content": turn.text}  # pyright: ignore[reportAssignmentType]
            for turn in new
        ]
        return _render_transcript_request(messages, first=is_first)

    async def _converse(self) -> None:
        backend = self._config.backend
        name = backend if isinstance(backend, str) else backend.name
        worker, timeout_s = self._service.pipeline_worker, self._config.timeout_secs
        try:
            async with _BackendSession(worker, name, timeout_secs=timeout_s) as session:
                self._backend = session
                self._is_attached.set()
                async for event in session:
                    await self._take(event)
                if not session.detached:
                    await self._fail(f"the backend {name!r} went away")
        except Exception as error:
            await self._fail(f"the backend {name!r} failed: {error}", error)
        finally:
            self._is_attached.clear()
            self._backend = None

    async def _take(self, event: BackendEvent) -> None:
        match event:
            case BackendToolCall():
                await self._service.push_frame(event.to_frame())
            case BackendOutput() if event.prefers_spoken and event.text:
                await self._say(event.text)
            case BackendError():
                await self._fail(f"the backend failed: {event.error}")
            case BackendIdle():
                self._settle(None)
            case _:
                logger.debug(f"{self._service}: a note of the backend is not used")

    async def _say(self, text: str) -> None:
        if self._settle(text):
            self._answered = True
        elif self._answered and self._session is not None:
            try:
                await asyncio.wrap_future(self._session.say(text, at_once=True, alone=True))
            except MoshiAgentError as error:
                await self._fail(f"cannot say {text!r}: {error}", error)
        else:
            logger.info(f"{self._service}: an answer that nobody waits for any more is not spoken")

    def _settle(self, text: str | None) -> bool:
        """Answers the open request, if there is one."""
        answer = self._answer
        if answer is None or answer.done():
            return False
        answer.set_result(text)
        return True

    async def _fail(self, message: str, error: Exception | None = None) -> None:
        await self._service.push_error(message, exception=error)
        self._settle(None)
