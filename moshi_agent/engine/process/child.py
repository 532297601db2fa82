"""The engine's own process: a `LocalBackend` that is told what to do through a channel."""

from __future__ import annotations

import copy
import gc
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from concurrent.futures import Future
from functools import partial
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import Any

import torch

from moshi_agent.engine.commands import Open, Stop
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.local import LocalBackend
from moshi_agent.engine.process.channel import Channel
from moshi_agent.engine.process.messages import (
    About,
    Answer,
    Ask,
    Delivered,
    Loaded,
    Logged,
    Question,
)
from moshi_agent.engine.prompt.prompt import PromptSource
from moshi_agent.errors import EngineUnhealthy, MoshiAgentError


def run(config: EngineConfig, connection: Connection, log_level: int) -> None:
    """Loads, serves until `Stop`, and ends: all that the process does.

    It ends as well as soon as its parent does, or one of its threads fails: a process that is half alive
    would hold the device, and nobody would begin another.
    """
    # Both reach the parent too, which decides and lets calls come to their end. A fork of the parent sends
    # SIGTERM as well, when it exits, to what it takes for a child of its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.excepthook = _end_with_thread
    threading.Thread(target=_end_with_parent, name="moshi-parent", daemon=True).start()
    channel = Channel(connection)
    _send_logs(channel, log_level)
    try:
        backend = LocalBackend(config, failed=partial(_end_unhealthy, channel))
    except Exception as error:
        channel.send(Loaded(portable(error)))
    else:
        # What is there now stays: to look through all of it for garbage takes longer than a step may.
        gc.collect()
        gc.freeze()
        channel.send(Loaded())
        _serve(backend, channel)
    channel.close()


def portable(error: BaseException) -> Exception:
    """Returns the error as another process can have it: itself if pickle can carry it, else in words."""
    if not isinstance(error, MoshiAgentError):
        error.add_note("In the engine's process:\n" + "".join(traceback.format_exception(error)))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    if isinstance(error, Exception) and type(copy) is type(error):
        return error
    return EngineUnhealthy(f"{type(error).__name__}: {error}")


def _serve(backend: LocalBackend, channel: Channel) -> None:
    for message in channel.receive():
        match message:
            case Stop():
                break
            case Ask(number, question):
                answer = _answer(backend, channel, question)
                answer.add_done_callback(partial(_send_answer, channel, number))
            case _:
                backend.send(message)
    backend.stop()


def _answer(backend: LocalBackend, channel: Channel, question: Question) -> Future[Any]:
    match question:
        case About.START:
            return _result_of(backend.start)
        case About.METRICS:
            return _result_of(backend.metrics.snapshot)
        case About.CAPACITY:
            return _result_of(backend.capacity)
        case About.MODEL:
            return _result_of(lambda: backend.model)
        case PromptSource():
            return _prompt(backend, question)
        case Open(key):
            return backend.request(question, lambda delivery: channel.send(Delivered(key, delivery)))
        case _:
            return backend.request(question)


def _result_of(function: Any, *arguments: object) -> Future[Any]:
    answer: Future[Any] = Future()
    try:
        answer.set_result(function(*arguments))
    except Exception as error:
        answer.set_exception(error)
    return answer


def _prompt(backend: LocalBackend, source: PromptSource) -> Future[Any]:
    """In a thread of its own: conversations go on meanwhile."""
    answer: Future[Any] = Future()

    def compile_prompt() -> None:
        torch.set_num_threads(backend.config.threads)
        try:
            answer.set_result(backend.prompt(source))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=compile_prompt, name="moshi-prompt", daemon=True).start()
    return answer


def _send_answer(channel: Channel, number: int, answer: Future[Any]) -> None:
    error = answer.exception()
    if error is None:
        channel.send(Answer(number, answer.result()))
    else:
        channel.send(Answer(number, error=portable(error)))


class _LogSender(QueueHandler):
    """Sends records to the parent, which writes them as it is set up to."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(queue=None)  # pyright: ignore[reportArgumentType]
        self._channel = channel

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Makes a record that pickle can carry: its arguments and its traceback become text."""
        prepared = copy.copy(record)
        prepared.msg, prepared.args = record.getMessage(), None
        if record.exc_info:
            prepared.exc_text = logging.Formatter().formatException(record.exc_info)
            prepared.exc_info = None
        return prepared

    def enqueue(self, record: logging.LogRecord) -> None:
        self._channel.send(Logged(record))


def _send_logs(channel: Channel, level: int) -> None:
    root = logging.getLogger()
    root.addHandler(_LogSender(channel))
    root.setLevel(level)
    logging.captureWarnings(True)


def _end_unhealthy(channel: Channel) -> None:
    """Whatever ails the device, another process may not have it: the one above begins one."""
    channel.close()  # once everybody has been told
    os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end_with_thread(arguments: threading.ExceptHookArgs) -> None:
    threading.__excepthook__(arguments)
    os._exit(1)
