"""What one process tells another arrives whole and in order, its audio through memory or through the pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent.engine.process.channel import Channel
from moshi_agent.engine.process.rings import SLOT_SAMPLES, Rings

SENDERS = st.lists(st.integers(0, SLOT_SAMPLES + 2), max_size=40)


@contextmanager
def two_ends() -> Iterator[tuple[Channel, Channel]]:
    with two_ends_and_rings() as (left, right, _):
        yield left, right


@contextmanager
def two_ends_and_rings() -> Iterator[tuple[Channel, Channel, Rings]]:
    here, there = multiprocessing.Pipe()
    rings = Rings.create()
    attached = Rings.attach(rings.name)
    rings.unlink()
    left = Channel(here, rings.to_engine, rings.from_engine)
    right = Channel(there, attached.from_engine, attached.to_engine)
    try:
        yield left, right, rings
    finally:
        left.close()
        right.close()
        attached.close()
        rings.close()


def ramp(samples: int, start: int) -> NDArray[np.float32]:
    return np.arange(start, start + samples, dtype=np.float32)


@given(SENDERS)
def test_audio_of_any_length_arrives_as_it_was_sent(lengths: list[int]) -> None:
    with two_ends() as (left, right):
        for number, length in enumerate(lengths):
            left.send((number, ramp(length, number), "and the rest"))
        left.send("end")
        received = right.receive()
        for number, length in enumerate(lengths):
            got, pcm, rest = next(received)
            assert (got, rest) == (number, "and the rest")
            assert pcm.dtype == np.float32 and pcm.flags.writeable
            np.testing.assert_array_equal(pcm, ramp(length, number))
        assert next(received) == "end"


def test_more_audio_than_the_ring_holds_waits_in_the_pipe() -> None:
    with two_ends() as (left, right):
        for number in range(1000):
            left.send(ramp(1920, number))
        received = right.receive()
        assert [next(received)[0] for _ in range(1000)] == list(range(1000))


def test_both_ways_at_once() -> None:
    with two_ends() as (left, right):
        left.send(ramp(3, 1))
        right.send(ramp(3, 5))
        assert next(right.receive()).tolist() == [1, 2, 3]
        assert next(left.receive()).tolist() == [5, 6, 7]


def test_what_cannot_be_pickled_is_reported_and_takes_no_room() -> None:
    with two_ends_and_rings() as (left, right, rings):
        errors: SimpleQueue[Exception] = SimpleQueue()
        for _ in range(600):  # more than there are slots
            left.send((ramp(8, 0), lambda: None), errors.put)
        assert all("pickle" in str(errors.get(timeout=10)) for _ in range(600))
        left.send(ramp(8, 0))
        assert next(right.receive()).tolist() == list(range(8))
        assert rings.to_engine.next == 2  # it has taken the first slot


def test_the_end_of_one_end_is_heard_at_the_other_after_its_last_word() -> None:
    here, there = multiprocessing.Pipe()
    rings = Rings.create()
    rings.unlink()
    left = Channel(here, rings.to_engine, rings.from_engine)
    right = Channel(there, rings.from_engine, rings.to_engine)
    for number in range(100):
        left.send(number)
    left.close()
    assert list(right.receive()) == list(range(100))
    right.send("to nobody")
    right.close()
    rings.close()


def test_a_frame_that_is_not_in_its_slot_is_an_error() -> None:
    rings = Rings.create()
    rings.unlink()
    sequence = rings.to_engine.write(ramp(4, 0))
    assert sequence is not None
    assert rings.to_engine.read(sequence, 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="not in its slot"):
        rings.to_engine.read(sequence, 4)
    rings.close()


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="shared memory has names to look at on Linux only")
def test_shared_memory_has_no_name_once_it_is_unlinked() -> None:
    rings = Rings.create()
    place = Path("/dev/shm", rings.name)
    assert place.exists()
    rings.unlink()
    assert not place.exists()
    assert rings.from_engine.write(ramp(4, 0)) == 1  # and works
    rings.close()
