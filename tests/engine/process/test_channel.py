"""What one process tells another arrives whole and in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent.engine.process.channel import Channel

LENGTHS = st.lists(st.integers(0, 5000), max_size=40)


@contextmanager
def two_ends() -> Iterator[tuple[Channel, Channel]]:
    here, there = multiprocessing.Pipe()
    left, right = Channel(here), Channel(there)
    try:
        yield left, right
    finally:
        left.close()
        right.close()


def ramp(samples: int, start: int) -> NDArray[np.float32]:
    return np.arange(start, start + samples, dtype=np.float32)


@given(LENGTHS)
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


def test_more_than_the_pipe_holds_waits_for_its_reader() -> None:
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


def test_what_cannot_be_pickled_is_refused_by_itself() -> None:
    """Those before and behind it arrive, also where all wait for the pipe together."""
    with two_ends() as (left, right):
        errors: SimpleQueue[Exception] = SimpleQueue()
        for number in range(100):
            left.send(ramp(8, number))
            left.send((ramp(8, number), lambda: None), errors.put)
        assert all("pickle" in str(errors.get(timeout=10)) for _ in range(100))
        received = right.receive()
        assert [next(received)[0] for _ in range(100)] == list(range(100))


def test_the_end_of_one_end_is_heard_at_the_other_after_its_last_word() -> None:
    here, there = multiprocessing.Pipe()
    left, right = Channel(here), Channel(there)
    for number in range(100):
        left.send(number)
    left.close()
    assert list(right.receive()) == list(range(100))
    right.send("to nobody")
    right.close()
