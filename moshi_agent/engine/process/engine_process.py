"""The life of one process of an engine, and what it owes to others meanwhile."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from moshi_agent.engine.commands import Command, Key, Open
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.event_queue import Delivery, Outlet
from moshi_agent.engine.process.messages import Answer, Ask, Delivered, Loaded, Logged, Question
from moshi_agent.engine.process.process_handle import ProcessHandle
from moshi_agent.errors import EngineUnhealthy, InputError
from moshi_agent.events import Ended, Event

_log = logging.getLogger("moshi_agent.engine")


@dataclass(slots=True)
class _Subscriber:
    """Whoever holds a conversation, and the last that it was told."""

    outlet: Outlet
    last: Event | None = None


@dataclass(frozen=True, slots=True)
class _Reply:
    future: Future[Any]
    opens: Key | None  # the conversation that begins with it


class EngineProcess:
    """From the start of a process to its end. `run` and `fail` belong to one thread; the rest to anyone."""

    def __init__(self) -> None:
        self.loaded: Future[None] = Future()
        self.is_serving = False
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._replies: dict[int, _Reply] = {}
        self._subscribers: dict[Key, _Subscriber] = {}
        self._handle: ProcessHandle | None = None
        self._is_unwanted = False
        self._over: EngineUnhealthy | None = None

    @property
    def is_loaded(self) -> bool:
        return self.loaded.done() and self.loaded.exception() is None

    @property
    def sessions(self) -> int:
        """Conversations that have not been told their end."""
        return len(self._subscribers)

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._handle is None else self._handle.pid

    def run(self, config: EngineConfig) -> str:
        """Starts the process and hears it until its end. Returns how it ended, in words."""
        try:
            handle = ProcessHandle(config)
        except Exception as error:
            return f"could not be started: {error}"
        with self._lock:
            self._handle = handle
            if self._is_unwanted:
                handle.kill()
        try:
            for message in handle.messages():
                self._take(message)
        except Exception as error:
            _log.exception(
                "the engine's process %s cannot be understood, and is ended: %s",
                *(handle.pid, error),
                extra={"pid": handle.pid},
            )
            self.kill()
        with self._lock:
            self._handle = None
        return handle.end()

    def kill(self) -> None:
        """Ends the process at once, or as soon as it begins."""
        with self._lock:
            self._is_unwanted = True
            if self._handle is not None:
                self._handle.kill()

    def send(self, command: Command) -> None:
        """Hands over a command that needs no answer. Takes no lock: a finalizer may call it at any time."""
        handle = self._handle
        if handle is not None:
            handle.channel.send(command)

    def ask(self, question: Question, outlet: Outlet | None = None) -> Future[Any]:
        """Hands over a question and returns its answer to come.

        The answer is EngineUnhealthy if the process is not loaded yet or ends first, and InputError for a
        question that cannot be pickled.
        """
        future: Future[Any] = Future()
        with self._lock:
            handle = self._handle
            if handle is None or not self.is_loaded:
                future.set_exception(self._over or EngineUnhealthy("the engine's process is not ready"))
                return future
            number = next(self._numbers)
            opens = None
            if isinstance(question, Open) and outlet is not None:
                opens = question.key
                self._subscribers[opens] = _Subscriber(outlet)
            self._replies[number] = _Reply(future, opens)
        handle.channel.send(Ask(number, question), unsent=partial(self._not_asked, number))
        return future

    def fail(self, error: EngineUnhealthy) -> None:
        """Tells all who wait for something that it is over."""
        self.is_serving = False
        with self._lock:
            self._over = error
            replies, self._replies = self._replies, {}
            subscribers, self._subscribers = self._subscribers, {}
        if not self.loaded.done():
            self.loaded.set_exception(error)
        for key, subscriber in subscribers.items():
            end = _lost(subscriber.last, error)
            _log.info(
                "session %d ended after %.1f s: %s, %s",
                *(key, end.media_s, end.reason, error),
                extra={"session": key, "seconds": end.media_s, "reason": end.reason, "error": str(error)},
            )
            _deliver(key, subscriber, Delivery([end]))
        for reply in replies.values():
            _resolve(reply.future, Answer(0, error=error))

    def _take(self, message: object) -> None:
        match message:
            case Delivered(key, delivery):
                self._hand_out(key, delivery)
            case Answer(number):
                self._answer(number, message)
            case Loaded(None):
                self.loaded.set_result(None)
            case Loaded(error):
                self.loaded.set_exception(error)
            case Logged(record):
                logger = logging.getLogger(record.name)
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
            case _:
                raise TypeError(f"a message of type {type(message).__name__}")

    def _hand_out(self, key: Key, delivery: Delivery) -> None:
        subscriber = self._subscribers.get(key)
        if subscriber is None:
            return
        if delivery.events:
            subscriber.last = delivery.events[-1]
        if isinstance(subscriber.last, Ended):
            with self._lock:
                del self._subscribers[key]
        _deliver(key, subscriber, delivery)

    def _answer(self, number: int, answer: Answer) -> None:
        with self._lock:
            reply = self._replies.pop(number, None)
            if reply is None:
                return
            if answer.error is not None and reply.opens is not None:
                self._subscribers.pop(reply.opens, None)
        _resolve(reply.future, answer)

    def _not_asked(self, number: int, error: Exception) -> None:
        self._answer(number, Answer(number, error=InputError(f"not fit for the engine's process: {error}")))


def _resolve(future: Future[Any], answer: Answer) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if answer.error is None:
        future.set_result(answer.value)
    else:
        future.set_exception(answer.error)


def _deliver(key: Key, subscriber: _Subscriber, delivery: Delivery) -> None:
    try:
        subscriber.outlet(delivery)
    except Exception as error:
        _log.exception(
            "session %d: its events could not be handed out, the others go on: %s",
            *(key, error),
            extra={"session": key},
        )


def _lost(last: Event | None, error: EngineUnhealthy) -> Ended:
    frame, media_s = (0, 0.0) if last is None else (last.frame, last.media_s)
    return Ended(frame=frame, media_s=media_s, wall_s=time.time(), reason="engine_lost", error=str(error))
