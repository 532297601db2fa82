"""Messages between two processes, pickled through a pipe."""

from __future__ import annotations

import io
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

_log = logging.getLogger("moshi_agent.engine")
_MOST_AT_ONCE = 64  # messages that go through the pipe together, where so many wait

Unsent = Callable[[Exception], None]


@dataclass(frozen=True, slots=True)
class _Letter:
    message: object
    unsent: Unsent | None


class Channel:
    """One end. Any thread sends, one receives. Both ends belong to this package, so pickle is safe.

    A thread of the channel's own pickles and writes: `send` neither blocks nor fails, and a finalizer may
    call it in the midst of anything. Audio goes through the pipe as well: shared memory would save a copy
    that costs next to nothing, and a process that dies could leave it behind.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._outbox: SimpleQueue[_Letter | None] = SimpleQueue()
        self._is_broken = False
        self._writer = threading.Thread(target=self._write, name="moshi-channel", daemon=True)
        self._writer.start()

    def send(self, message: object, unsent: Unsent | None = None) -> None:
        """Hands over a message; to nobody, if the other end is gone.

        Args:
            unsent: called, in another thread, with the reason why the message cannot be pickled.
        """
        if not self._is_broken:
            self._outbox.put(_Letter(message, unsent))

    def receive(self) -> Iterator[Any]:
        """Messages as they come, until the other end is closed or gone."""
        while True:
            try:
                packet = io.BytesIO(self._connection.recv_bytes())
            except (EOFError, OSError):
                return
            size = packet.getbuffer().nbytes
            while packet.tell() < size:
                yield pickle.load(packet)

    def close(self) -> None:
        """Sends what waits, then closes this end. Nobody may be receiving any more."""
        self._outbox.put(None)
        self._writer.join()
        self._connection.close()

    def _write(self) -> None:
        while True:
            letters = self._take_waiting()
            packet = b"".join(_pickled(letter) for letter in letters if letter is not None)
            try:
                if packet:
                    self._connection.send_bytes(packet)
            except OSError:  # whoever receives here hears of it as well
                self._is_broken = True
                return
            if None in letters:
                return

    def _take_waiting(self) -> list[_Letter | None]:
        letters = [self._outbox.get()]
        while len(letters) < _MOST_AT_ONCE and not self._outbox.empty():
            letters.append(self._outbox.get())
        return letters


def _pickled(letter: _Letter) -> bytes:
    """The message as bytes, or none where it cannot be: that is the sender's alone to hear."""
    try:
        return pickle.dumps(letter.message, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        if letter.unsent is None:
            kind = type(letter.message).__name__
            _log.exception("a %s cannot be pickled: %s", kind, error, extra={"kind": kind})
        else:
            letter.unsent(error)
        return b""
