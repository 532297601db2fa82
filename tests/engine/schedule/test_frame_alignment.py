"""The phase of a conversation's frames: complete just before the strike, whenever it began."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.engine.microphone import Microphone
from moshi_agent.engine.schedule.frame_alignment import leading_silence

LEVEL = 0.015  # of what is heard all along: a larger mean would be taken out as a microphone's offset


@given(
    start=st.floats(0, 1e6),
    chunk_ms=st.sampled_from([1, 2, 4, 5, 8, 10, 16, 20, 40]),
    held_back=st.integers(0, 48),
    before=st.integers(0, 50),
)
def test_the_last_chunk_before_a_strike_completes_a_frame(
    start: float, chunk_ms: int, held_back: int, before: int
) -> None:
    """Whenever the conversation began, whatever a resampler holds back."""
    size = 24 * chunk_ms
    heard, at = max(0, (1 + before) * size - held_back), start
    heard += leading_silence(start, heard, chunk_ms / 1000)
    while at < start + 0.5:
        at += chunk_ms / 1000
        frames, heard = heard // 1920, heard + size
        to_strike_s = -(at - 1e-6) % FRAME_S
        is_last = to_strike_s < chunk_ms / 1000 - 2e-6
        if 3e-6 < to_strike_s % (chunk_ms / 1000) < chunk_ms / 1000 - 3e-6:
            assert (heard // 1920 > frames) == is_last


def _completions(
    rate_hz: int, start: float, live: bool, late_s: Sequence[float], chunk_ms: int = 20
) -> tuple[list[float], NDArray[np.float32]]:
    """When frames are complete, and what is in them."""
    now = start
    microphone = Microphone(1, clock=lambda: now, live=live)
    samples = np.full(rate_hz * chunk_ms // 1000, LEVEL, np.float32)
    times: list[float] = []
    heard: list[NDArray[np.float32]] = []
    for chunk, late in enumerate(late_s):
        now = start + chunk * chunk_ms / 1000 + late
        frames = microphone.push(samples, rate_hz)
        times += [now] * len(frames)
        heard += [frame.pcm for frame in frames]
    return times, np.concatenate([*heard, *(frame.pcm for frame in microphone.flush())])


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("start", np.linspace(1000.0, 1000.08, 9).tolist())
def test_live_conversations_come_in_step_whenever_they_began(rate_hz: int, start: float) -> None:
    """Within a chunk of each other, and as much as chunks are late; no sample is lost, few are added."""
    late_s = Random(rate_hz + start).choices([0.0, 0.002, 0.005, 0.01], k=100)
    times, heard = _completions(rate_hz, start, True, late_s)
    to_strike_s = (0.0101 - np.array(times[1:])) % FRAME_S - 0.0101
    assert np.all(to_strike_s < 0.0201)
    assert np.count_nonzero(heard > LEVEL / 5) == pytest.approx(100 * 480, abs=60)
    assert np.argmax(heard > LEVEL / 5) < 1920 + 48


def test_what_does_not_go_with_the_clock_is_left_as_it_is() -> None:
    """A file, chunks as long as frames, and a live input that ends before a frame."""
    for start in (1000.0, 1000.03):
        times, heard = _completions(24_000, start, False, [0.0] * 8)
        assert times == pytest.approx([start + 0.06, start + 0.14])
        assert len(heard) == 8 * 480
        times, heard = _completions(24_000, start, True, [0.0] * 3, chunk_ms=80)
        assert times == pytest.approx([start, start + 0.08, start + 0.16])
        assert len(heard) == 3 * 1920
        times, heard = _completions(24_000, start, True, [0.0] * 2)
        assert not times
        assert np.flatnonzero(heard).tolist() == list(range(960))
