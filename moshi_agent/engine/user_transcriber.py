"""A recogniser of the application's own, which writes down what users say, beside the engine's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from moshi_agent.audio.framing import Samples
from moshi_agent.engine.call.utterances import Utterance, check_words
from moshi_agent.engine.commands import HeardUtterance, Key
from moshi_agent.text.word_tracker import TimedWord

_log = logging.getLogger("moshi_agent.engine")


class Transcribe(Protocol):
    """Finds the words of speech: any function with this signature will do.

    It is called by one thread for all conversations, once for each of a user's utterances, and may take its
    time: no frame waits for it. Two that exist are `WhisperRecogniser` and `SphinxRecogniser`, in
    `moshi_agent.training.annotation`.
    """

    def __call__(self, samples: Samples, /) -> Iterable[tuple[str, float, float]]:
        """The words in mono speech, float32 [N] at 24 kHz, each with its start and end in seconds."""
        ...


class UserTranscriber:
    """Gives utterances to a recogniser, and its words to the conversations.

    Args:
        transcribe: the recogniser. What it raises is logged; the utterance is then not written down.
        send: to the thread that takes the steps.
    """

    def __init__(self, transcribe: Transcribe, send: Callable[[HeardUtterance], object]) -> None:
        self._transcribe, self._send = transcribe, send
        self._thread = ThreadPoolExecutor(1, "moshi-transcriber")

    def take(self, key: Key, utterance: Utterance) -> None:
        """Has an utterance written down; returns at once."""
        self._thread.submit(self._write, key, utterance)

    def _write(self, key: Key, utterance: Utterance) -> None:
        words: tuple[TimedWord, ...] = ()
        try:
            words = check_words(self._transcribe(utterance.samples), utterance)
        except Exception as error:
            _log.exception("session %d: the transcriber failed: %s", key, error, extra={"session": key})
        self._send(HeardUtterance(key, words))

    def stop(self) -> None:
        """Takes nothing more; returns once what was taken is written down."""
        self._thread.shutdown()

    def abandon(self) -> None:
        """Writes nothing more, and waits for nobody."""
        self._thread.shutdown(wait=False, cancel_futures=True)
