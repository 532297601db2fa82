"""Chunks of any size in, frames of one size out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.audio.framing import FRAME_SAMPLES, Framer, frames_of
from moshi_agent.errors import AudioError

CHUNK_SIZES = st.lists(st.integers(0, 5000), max_size=20)


def _ramp(samples: int) -> np.ndarray:
    return np.arange(samples, dtype=np.float32)


@given(CHUNK_SIZES, st.integers(1, 2500))
def test_the_frames_and_the_flush_are_the_stream_however_it_is_cut(
    sizes: list[int], frame_samples: int
) -> None:
    stream = _ramp(sum(sizes))
    framer = Framer(frame_samples)
    frames = []
    for chunk in np.split(stream, np.cumsum(sizes)[:-1]) if sizes else []:
        frames += framer.push(chunk)
        assert framer.pending < frame_samples
    assert len(frames) == len(stream) // frame_samples
    last = framer.flush()
    if last is not None:
        frames.append(last)
    joined = np.concatenate(frames) if frames else np.empty(0, np.float32)
    assert all(frame.shape == (frame_samples,) and frame.dtype == np.float32 for frame in frames)
    assert np.array_equal(joined[: len(stream)], stream)
    assert not joined[len(stream) :].any()


def test_a_frame_comes_out_with_the_sample_that_completes_it() -> None:
    framer = Framer()
    assert framer.push(_ramp(FRAME_SAMPLES - 1)) == []
    assert len(framer.push(_ramp(1))) == 1
    assert framer.pending == 0


def test_after_a_flush_another_stream_starts() -> None:
    framer = Framer(4)
    framer.push(_ramp(3))
    flushed = framer.flush()
    assert flushed is not None
    assert flushed.tolist() == [0, 1, 2, 0]
    assert framer.flush() is None
    assert framer.push(_ramp(4))[0].tolist() == [0, 1, 2, 3]


def test_a_frame_given_out_is_not_touched_by_what_comes_later() -> None:
    framer = Framer(4)
    chunk = _ramp(6)
    first = framer.push(chunk)[0]
    chunk[:] = -1
    second = framer.push(_ramp(2))[0]
    assert first.tolist() == [0, 1, 2, 3]
    assert second.tolist() == [4, 5, 0, 1]


@pytest.mark.parametrize(
    ("chunk", "named"),
    [
        (np.zeros((2, 3), np.float32), "2x3 float32"),
        (np.zeros(3, np.int16), "3 int16"),
        (np.zeros(3), "3 float64"),
    ],
)
def test_a_chunk_of_another_shape_or_type_is_refused_by_name(chunk: np.ndarray, named: str) -> None:
    with pytest.raises(AudioError, match=named):
        Framer().push(chunk)


def test_a_frame_of_no_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Framer(0)


def test_a_file_becomes_whole_frames_with_the_tail_after_its_last_sample() -> None:
    frames = list(frames_of(np.ones(FRAME_SAMPLES + 1, np.float32), tail_s=0.16))
    assert len(frames) == 4
    assert np.concatenate(frames).sum() == FRAME_SAMPLES + 1
    assert not np.concatenate(frames)[FRAME_SAMPLES + 1 :].any()
