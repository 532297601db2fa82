"""The input of a conversation: what is accepted, and that chunks leave no trace in the frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent.engine.microphone import Microphone, to_float32
from moshi_agent.errors import AudioError

SINE = (0.5 * np.sin(np.arange(9000) / 7)).astype(np.float32)


def frames(chunks: list[NDArray[np.float32]], rate_hz: int) -> NDArray[np.float32]:
    microphone = Microphone(1, clock=lambda: 0.0)
    pushed = [frame for chunk in chunks for frame in microphone.push(chunk, rate_hz)]
    return np.stack([frame.pcm for frame in [*pushed, *microphone.flush()]])


@given(st.lists(st.integers(0, 9000), max_size=12), st.sampled_from([8_000, 24_000, 44_100]))
def test_chunks_of_any_size_give_the_same_frames(cuts: list[int], rate_hz: int) -> None:
    chunks = np.split(SINE, sorted(cuts))
    assert np.array_equal(frames(chunks, rate_hz), frames([SINE], rate_hz))


def test_at_24_khz_no_sample_changes() -> None:
    heard = frames([SINE], 24_000).reshape(-1)
    assert np.array_equal(heard[: len(SINE)], SINE)
    assert not heard[len(SINE) :].any()


def test_another_rate_in_mid_stream_goes_on_with_what_was_heard() -> None:
    microphone = Microphone(1, clock=lambda: 0.0)
    heard = microphone.push(SINE[:4800], 48_000) + microphone.push(SINE[:4800], 24_000) + microphone.flush()
    assert len(heard) == 4  # 2400 + 4800 samples
    assert np.array_equal(np.concatenate([f.pcm for f in heard])[2400:7200], SINE[:4800])


def test_frames_of_one_chunk_share_its_number() -> None:
    microphone = Microphone(1, clock=lambda: 0.0)
    numbers = [[f.chunk for f in microphone.push(SINE[:3840], 24_000)] for _ in range(3)]
    assert numbers == [[1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_are_int16(wrap: type) -> None:
    numbers = np.array([0, 1, -32768, 32767], "<i2")
    assert np.array_equal(to_float32(wrap(numbers.tobytes()), 8000), to_float32(numbers, 8000))
    assert np.array_equal(to_float32(memoryview(numbers), 8000), to_float32(numbers, 8000))
    assert to_float32(numbers, 8000).tolist() == [0, 1 / 32768, -1, 32767 / 32768]


@pytest.mark.parametrize(
    ("pcm", "rate_hz", "said"),
    [
        (b"abc", 8000, "3 bytes; accepted: 16-bit samples"),
        (np.zeros((2, 3), np.float32), 8000, "2-dimensional float32; accepted: one-dimensional"),
        (np.zeros(3), 8000, "1-dimensional float64"),
        (np.zeros(3, np.int32), 8000, "1-dimensional int32"),
        (np.zeros(3, ">i2"), 8000, "1-dimensional >i2"),
        (np.float32(1), 8000, "float32"),
        ([0.0, 0.1], 8000, "audio as list"),
        (None, 8000, "audio as NoneType"),
        ("text", 8000, "audio as str"),
        (np.array([0, np.nan], np.float32), 8000, "samples of nan; accepted: float32 from -1 to 1"),
        (np.array([0, -np.inf], np.float32), 8000, "samples of inf"),
        (np.array([20000], np.float32), 8000, "samples of 20000; accepted: float32 from -1 to 1"),
        (np.zeros(3601 * 4000, np.int16), 4000, "a chunk of 14404000 samples; accepted: at most an hour"),
        (np.zeros(3, np.int16), 0, "a rate of 0; accepted: 4000 to 192000 Hz"),
        (np.zeros(3, np.int16), -1, "a rate of -1"),
        (np.zeros(3, np.int16), 3999, "a rate of 3999"),
        (np.zeros(3, np.int16), 192_001, "a rate of 192001"),
        (np.zeros(3, np.int16), 8000.5, r"a rate of 8000\.5"),
        (np.zeros(3, np.int16), "8000", "a rate of '8000'"),
        (np.zeros(3, np.int16), None, "a rate of None"),
        (np.zeros(3, np.int16), float("nan"), "a rate of nan"),
    ],
)
def test_what_is_no_audio_is_refused_and_says_why(pcm: object, rate_hz: object, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        to_float32(pcm, rate_hz)


def test_nothing_at_all_is_audio() -> None:
    assert not Microphone(1).push(to_float32(b"", 8000), 8000)
    assert not Microphone(1).flush()
