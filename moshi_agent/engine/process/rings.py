"""Audio between two processes: rings of slots in shared memory, one ring each way.

One process writes a ring and the other reads it. A slot holds up to `SLOT_SAMPLES` float32 samples behind the
sequence number of the frame in it; zero marks it free. Which slot a frame is in travels with the message that
the frame is part of, so nobody waits on the memory itself.
"""

from __future__ import annotations

import os
import struct
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Self

import numpy as np

from moshi_agent.audio.framing import Samples

SLOT_SAMPLES = 4096  # a frame at up to 48 kHz, 3840 samples, and what a resampler may add to it
_SLOTS = 256  # more than the conversations of a device have frames on the way at one time
_HEADER = struct.Struct("q")
_SLOT_BYTES = _HEADER.size + 4 * SLOT_SAMPLES
_RING_BYTES = _SLOTS * _SLOT_BYTES
_FREE = 0


class Ring:
    """Frames in order, from the one who writes to the one who reads."""

    def __init__(self, memory: SharedMemory, start: int) -> None:
        self._memory = memory
        self._start = start  # in bytes
        self.next = 1  # the sequence number of the next frame, where this process writes

    def write(self, pcm: Samples) -> int | None:
        """Puts samples [N] into the next slot; returns their sequence number.

        None if they are more than a slot takes, or if the reader is a whole ring behind.
        """
        offset = self._offset(self.next)
        if len(pcm) > SLOT_SAMPLES or self._sequence_at(offset) != _FREE:
            return None
        begin, data = offset + _HEADER.size, np.ascontiguousarray(pcm).tobytes()
        self._bytes[begin : begin + len(data)] = data
        self._mark(offset, self.next)
        self.next += 1
        return self.next - 1

    def take_back(self, sequence: int) -> None:
        """Frees what has been written since `next` was `sequence`: nobody will be told of it."""
        while self.next > sequence:
            self.next -= 1
            self._mark(self._offset(self.next), _FREE)

    def read(self, sequence: int, samples: int) -> Samples:
        """A copy [samples] of a frame, and its slot is free.

        Raises:
            ValueError: the frame is not there.
        """
        offset = self._offset(sequence)
        if self._sequence_at(offset) != sequence:
            raise ValueError(f"frame {sequence} is not in its slot, but {self._sequence_at(offset)}")
        pcm = np.frombuffer(self._bytes, np.float32, samples, offset + _HEADER.size).copy()
        self._mark(offset, _FREE)
        return pcm

    @property
    def _bytes(self) -> memoryview:
        # Taken anew every time: memory that something still looks at cannot be closed.
        buffer = self._memory.buf
        if buffer is None:
            raise ValueError("the rings are closed")
        return buffer

    def _offset(self, sequence: int) -> int:
        return self._start + sequence % _SLOTS * _SLOT_BYTES

    def _sequence_at(self, offset: int) -> int:
        return _HEADER.unpack_from(self._bytes, offset)[0]

    def _mark(self, offset: int, sequence: int) -> None:
        _HEADER.pack_into(self._bytes, offset, sequence)


class Rings:
    """The two rings between an engine's process and the one that started it, in one piece of memory.

    Once both have it, `unlink` takes its name away: from then on the memory goes with the last of the two
    processes, however they end.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self.to_engine = Ring(memory, 0)
        self.from_engine = Ring(memory, _RING_BYTES)

    @classmethod
    def create(cls) -> Self:
        """Raises OSError where there is no shared memory left."""
        memory = SharedMemory(create=True, size=2 * _RING_BYTES)
        try:
            _reserve(memory)
        except BaseException:
            memory.unlink()
            memory.close()
            raise
        return cls(memory)

    @classmethod
    def attach(cls, name: str) -> Self:
        """The rings that another process has created."""
        return cls(SharedMemory(name))

    @property
    def name(self) -> str:
        return self._memory.name

    def unlink(self) -> None:
        """Takes the name away; whoever has the memory keeps it."""
        self._memory.unlink()

    def close(self) -> None:
        """Lets go of the memory. Nobody may read or write any more."""
        self._memory.close()


def _reserve(memory: SharedMemory) -> None:
    """Has Linux set the pages aside now: without room for them, a later write would kill the process."""
    path = Path("/dev/shm", memory.name)
    if path.exists():
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, memory.size)
