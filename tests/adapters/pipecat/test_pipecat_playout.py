"""Drift control: what a transport is given after a stall, counted in samples on a clock of the test's own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import AudioChunk
from moshi_agent_adapters.pipecat.playout import Playout

FRAME_MS = 80
RATES_HZ = {"the websocket path": 8_000, "the WebRTC path": 24_000}


def chunk(number: int, rate_hz: int, *, loud: bool, missing: int = 0) -> AudioChunk:
    samples = rate_hz * FRAME_MS // 1000 - missing
    pcm = np.full(samples, 0.25 if loud else 0.0, np.float32)
    return AudioChunk(frame=number, media_s=number * 0.08, wall_s=0.0, pcm=pcm, sample_rate=rate_hz)


class Player:
    """A transport as Pipecat's are: plays what it is given in real time, from a queue without bound."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._ends_at_ms = 0.0

    def delay_of_next_ms(self, now_ms: float) -> float:
        return max(0.0, self._ends_at_ms - now_ms)

    def play(self, audio: bytes, now_ms: float) -> None:
        self._ends_at_ms = max(self._ends_at_ms, now_ms) + len(audio) / 2 * 1000 / self._rate_hz


def run(rate_hz: int, arrivals_ms: list[float], loud: set[int]) -> list[float]:
    """The delay of each frame in the player, in milliseconds."""
    playout, player = Playout(rate_hz), Player(rate_hz)
    delays = []
    for number, at_ms in enumerate(arrivals_ms):
        delays.append(player.delay_of_next_ms(at_ms))
        audio = playout.admit(chunk(number, rate_hz, loud=number in loud), at_ms / 1000)
        if audio is not None:
            player.play(audio, at_ms)
    return delays


@pytest.mark.parametrize("rate_hz", RATES_HZ.values(), ids=RATES_HZ)
@pytest.mark.parametrize("stall_ms", [170.0, 330.0, 400.0, 415.0])
def test_after_a_stall_the_delay_is_back_within_three_seconds_of_silence(
    rate_hz: int, stall_ms: float
) -> None:
    stalled = range(50, 50 + round(stall_ms) // FRAME_MS)
    until_ms = 50 * FRAME_MS + stall_ms
    arrivals = [until_ms if n in stalled else n * float(FRAME_MS) for n in range(200)]
    loud = set(range(40, 80))  # the stall falls into speech, none of which may be lost
    delays = run(rate_hz, arrivals, loud)
    assert max(delays[:50]) == 0
    assert delays[79] > stall_ms - 2 * FRAME_MS  # as long as it speaks
    three_seconds_on = 80 + 3000 // FRAME_MS
    assert max(delays[three_seconds_on:]) <= 40


@pytest.mark.parametrize("rate_hz", RATES_HZ.values(), ids=RATES_HZ)
def test_jitter_of_forty_milliseconds_loses_nothing(rate_hz: int) -> None:
    jitter = np.random.default_rng(1).uniform(0, 40, 500)
    playout = Playout(rate_hz)
    for number, late_ms in enumerate(jitter):
        at_s = (number * FRAME_MS + late_ms) / 1000
        assert playout.admit(chunk(number, rate_hz, loud=False), at_s) is not None
    assert playout.dropped_s == 0


@given(gaps_ms=st.lists(st.floats(0, 500), min_size=1, max_size=80), loud=st.sets(st.integers(0, 80)))
def test_speech_is_never_left_out_and_frames_stay_whole(gaps_ms: list[float], loud: set[int]) -> None:
    playout, now_s, dropped = Playout(8_000), 0.0, 0
    for number, gap_ms in enumerate(gaps_ms):
        now_s += gap_ms / 1000
        audio = playout.admit(chunk(number, 8_000, loud=number in loud), now_s)
        if audio is None:
            assert number not in loud
            dropped += 1
        else:
            assert len(audio) == 2 * 640
    assert playout.dropped_s == pytest.approx(dropped * 0.08)


def test_the_first_frame_is_filled_up_in_front() -> None:
    audio = Playout(8_000).admit(chunk(0, 8_000, loud=True, missing=16), 0.0)
    assert audio is not None
    samples = np.frombuffer(audio, np.int16)
    assert len(samples) == 640
    assert not samples[:16].any() and samples[16:].all()


def test_what_an_interruption_has_thrown_away_no_longer_counts() -> None:
    playout = Playout(8_000)
    for number in range(5):
        assert playout.admit(chunk(number, 8_000, loud=True), 0.0) is not None
    playout.interrupted()
    assert playout.admit(chunk(5, 8_000, loud=False), 0.0) is not None
