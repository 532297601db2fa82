"""Holes in a stream of audio, filled: nothing clicks, a tone goes on, and long holes end in silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiortc")

from moshi_agent.audio.files import read_audio
from moshi_agent.questions import sample_questions
from moshi_agent_adapters.webrtc.concealment import Concealment

RATE_HZ = 48_000
PACKET = 960


def through(samples: np.ndarray, lost: set[int]) -> tuple[np.ndarray, Concealment]:
    """The stream after the loss of these packets of 20 ms."""
    concealment = Concealment(RATE_HZ)
    packets = np.split(samples[: len(samples) // PACKET * PACKET], len(samples) // PACKET)
    heard = [
        concealment.fill(PACKET) if index in lost else concealment.hear(packet)
        for index, packet in enumerate(packets)
    ]
    return np.concatenate(heard), concealment


def test_a_stream_without_holes_stays_as_it_is() -> None:
    speech = read_audio(sample_questions()[0].path, RATE_HZ)
    heard, concealment = through(speech, set())
    assert np.array_equal(heard, speech[: len(heard)]) and not concealment.concealed_samples


@pytest.mark.parametrize("pitch_hz", [80, 137.3, 220, 390])
def test_a_tone_goes_on_through_a_hole(pitch_hz: float) -> None:
    tone = 0.3 * np.sin(2 * np.pi * pitch_hz * np.arange(RATE_HZ // 4) / RATE_HZ).astype(np.float32)
    heard, concealment = through(tone, {6})
    assert concealment.concealed_samples == PACKET
    begin = 6 * PACKET
    error = heard[begin : begin + PACKET // 2] - tone[begin : begin + PACKET // 2]
    assert np.sqrt(np.mean(error**2)) < 0.05  # a hole would leave 0.21
    assert np.abs(np.diff(heard)).max() < 2 * np.abs(np.diff(tone)).max()


def test_a_long_hole_ends_in_silence() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 20 * PACKET).astype(np.float32)
    heard, _ = through(noise, {10, 11, 12, 13})
    assert np.abs(heard[10 * PACKET : 10 * PACKET + 480]).max() > 0.1
    concealment = Concealment(RATE_HZ)
    concealment.hear(noise)
    assert not concealment.fill(6 * PACKET)[4 * PACKET :].any()


@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, 9)), st.floats(0, 1))
def test_what_is_made_up_is_never_louder_than_what_was_heard(seed: int, lost: set[int], level: float) -> None:
    samples = (level * np.random.default_rng(seed).uniform(-1, 1, 10 * PACKET)).astype(np.float32)
    heard, _ = through(samples, lost)
    assert len(heard) == len(samples) and np.isfinite(heard).all()
    assert np.abs(heard).max() <= np.abs(samples).max() + 1e-6
