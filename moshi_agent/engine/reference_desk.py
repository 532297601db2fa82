"""Where the application's own function looks up what a conversation asks for, off the engine's threads."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from moshi_agent.engine.asking import AskConfig, Referral, shortened
from moshi_agent.engine.commands import Ask, Command, Key, Refer
from moshi_agent.errors import SessionClosed
from moshi_agent.events import Ended, Event, ReferenceEnded, ReferenceWanted, UserSaid
from moshi_agent.text.transcript import Transcript

_log = logging.getLogger("moshi_agent.engine")

# Looks something up: the text to speak about, or None where nothing was found.
OnReference = Callable[[ReferenceWanted], Awaitable[str | None]]
Request = Callable[[Command], "Future[Any]"]


@dataclass(slots=True)
class _Task:
    """A request that is being looked up."""

    id: int
    task: asyncio.Task[None]
    is_answering: bool = False  # it has been found


class ReferenceDesk:
    """Answers the requests of one conversation.

    The function runs on the event loop on which the conversation was opened; where that was none, on one in
    a thread of its own. It is cancelled when its request is over before it has answered. What it raises is
    logged and taken for nothing found.

    Args:
        key: of the conversation.
        config: how it asks.
        as_sentence: what was found is said as it is.
        on_reference: the function; None leaves the answer to who reads the events.
        transcript: of the conversation, for `AskConfig.when`.
        request: to the engine.
    """

    def __init__(
        self,
        key: Key,
        config: AskConfig,
        as_sentence: bool,
        on_reference: OnReference | None,
        transcript: Transcript,
        request: Request,
    ) -> None:
        self._key, self._config, self._as_sentence = key, config, as_sentence
        self._on_reference, self._transcript, self._request = on_reference, transcript, request
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own_thread: threading.Thread | None = None
        self._current: _Task | None = None

    def start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Begins to work, on this loop or on one of its own."""
        if loop is None:
            loop = asyncio.new_event_loop()
            name = f"moshi-references-{self._key}"
            self._own_thread = threading.Thread(target=_run, args=(loop,), name=name, daemon=True)
            self._own_thread.start()
        self._loop = loop

    def take(self, event: Event) -> None:
        """Takes an event of the conversation; returns at once. Any thread may call it."""
        is_wanted = isinstance(event, ReferenceWanted | ReferenceEnded | Ended)
        is_wanted |= isinstance(event, UserSaid) and self._config.when is not None
        if is_wanted and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: its program is at its end
                self._loop.call_soon_threadsafe(self._handle, event)

    def stop(self) -> None:
        """Cancels what is being looked up."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end)

    def _handle(self, event: Event) -> None:
        match event:
            case ReferenceWanted():
                self._begin(event)
            case ReferenceEnded():
                current = self._current
                if current is not None and current.id == event.id and not current.is_answering:
                    self._cancel()
            case UserSaid():
                self._ask_by_rule()
            case _:
                self._end()

    def _begin(self, wanted: ReferenceWanted) -> None:
        self._cancel()
        if self._on_reference is not None and self._loop is not None:
            self._current = _Task(wanted.id, self._loop.create_task(self._answer(wanted)))

    def _ask_by_rule(self) -> None:
        assert self._config.when is not None
        try:
            is_wanted = self._config.when(self._transcript.turns)
        except Exception as error:
            _log.exception("session %d: AskConfig.when failed: %s", self._key, error)
            return
        if is_wanted:
            self._request(Ask(self._key, "rule"))

    async def _answer(self, wanted: ReferenceWanted) -> None:
        assert self._on_reference is not None
        text: object = None
        try:
            answer = self._on_reference(wanted)
            if not inspect.isawaitable(answer):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError("on_reference is to be an async function")
            text = await answer
            if not isinstance(text, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"on_reference returned {type(text).__name__}; accepted: text, or None")
        except Exception as error:
            _log.exception("session %d: request %d was not answered: %s", self._key, wanted.id, error)
            text = None
        if self._current is not None and self._current.id == wanted.id:
            self._current.is_answering = True
        await self._send(wanted.id, text if isinstance(text, str) else None)

    async def _send(self, number: int, text: str | None) -> None:
        reply = self._request(refer_command(self._key, text, number, self._config, self._as_sentence))
        try:
            referral: Referral = await asyncio.wrap_future(reply)
        except SessionClosed:
            return
        except Exception as error:
            _log.error("session %d: the answer to request %d is lost: %s", self._key, number, error)
            return
        if not referral:
            _log.warning(
                "session %d: the answer to request %d is not spoken: %s, %s",
                *(self._key, number, referral.outcome, referral.reason),
                extra={"session": self._key, "request": number, "outcome": referral.outcome},
            )

    def _cancel(self) -> None:
        if self._current is not None:
            self._current.task.cancel()
            self._current = None

    def _end(self) -> None:
        self._cancel()
        loop, self._loop = self._loop, None
        if loop is not None and self._own_thread is not None:
            loop.call_soon(loop.stop)  # once what was cancelled has been told


def refer_command(
    key: Key, text: str | None, for_id: int | None, config: AskConfig, as_sentence: bool
) -> Refer:
    """Makes the command of an answer, which is shortened where it is an essay; None is for nothing found."""
    text = None if text is None or not text.strip() else shortened(text, config.most_words)
    return Refer(key, text, for_id, as_sentence)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
