"""A player in real time gets all that is said, and silence only as far as it has time for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.audio.playout import PlayoutClock
from moshi_agent.errors import AudioError

RATES = [8_000, 16_000, 24_000, 48_000]
FRAME_S = 0.08


@dataclass
class _Player:
    """Plays what it gets, in order, one sample per tick of its clock, and nothing where it has nothing."""

    rate_hz: int
    free_at: float = 0.0  # in samples: when all that it has is played
    played: list[np.ndarray] = field(default_factory=list)

    def take(self, chunk: np.ndarray, now_s: float) -> float:
        """Returns when the chunk begins to sound, in seconds."""
        begins = max(self.free_at, now_s * self.rate_hz)
        self.free_at = begins + len(chunk)
        self.played.append(chunk)
        return begins / self.rate_hz


def _ramp(start: int, count: int) -> np.ndarray:
    """Samples of which no two are the same and none is zero."""
    return np.arange(start + 1, start + count + 1, dtype=np.float32)


@pytest.mark.parametrize("rate_hz", RATES)
def test_jitter_of_a_quarter_of_a_frame_drops_nothing(rate_hz: int) -> None:
    """80 ms of silence every 80 ms, each up to 20 ms late, the extremes among them, all pass."""
    clock = PlayoutClock(rate_hz)
    late_s = np.random.default_rng(0).uniform(0, 0.020, 2000)
    late_s[::7], late_s[3::7] = 0.0, 0.020
    silence = np.zeros(rate_hz * 8 // 100, np.float32)
    for index, late in enumerate(late_s):
        assert len(clock.admit(silence, 1e6 + index * FRAME_S + late)) == len(silence)
        assert clock.ahead_ms <= 100.001
    assert clock.dropped_samples == 0


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("jitter_ms", [0.0, 10.0, 20.0])
@pytest.mark.parametrize("said_after_stall_s", [0.0, 2.0])
def test_a_stall_is_made_up_for_in_silence(rate_hz: int, jitter_ms: float, said_after_stall_s: float) -> None:
    """After 400 ms of nothing and five frames at once, the delay is back within 40 ms in 3 s of silence."""
    rng = np.random.default_rng(round(jitter_ms))
    frame = rate_hz * 8 // 100
    clock, player = PlayoutClock(rate_hz), _Player(rate_hz)
    delays_s: list[float] = []

    def send(index: int, arrives_s: float, chunk: np.ndarray) -> None:
        kept = clock.admit(chunk, arrives_s)
        begins_s = player.take(kept, arrives_s)
        # The end of the chunk, which is where the next begins, against the time at which it was due.
        delays_s.append(begins_s + len(kept) / rate_hz - (index + 1) * FRAME_S)

    stalled, speaks_until = 50, 55 + round(said_after_stall_s / FRAME_S)
    for index in range(speaks_until + 38):
        at_s = index * FRAME_S + rng.uniform(0, jitter_ms / 1000)
        if stalled <= index < stalled + 5:
            at_s = (stalled + 5) * FRAME_S
        silent = index >= speaks_until or index < 20
        send(index, at_s, np.zeros(frame, np.float32) if silent else _ramp(index * frame, frame))
    before_s = delays_s[stalled - 1]
    assert delays_s[stalled + 4] > before_s + 0.3  # without silence there is nothing to make up with
    assert abs(delays_s[-1] - before_s) <= 0.040
    assert clock.dropped_samples <= 0.42 * rate_hz
    said = np.concatenate(player.played)
    assert np.array_equal(said[said != 0], _ramp(20 * frame, (speaks_until - 20) * frame))


_chunk = st.tuples(
    st.floats(0, 0.6),  # seconds since the chunk before
    st.lists(st.tuples(st.booleans(), st.integers(1, 2000)), max_size=6),  # runs: silent or not, samples
)


@given(st.sampled_from(RATES), st.floats(20, 300), st.lists(_chunk, max_size=30))
def test_only_silence_is_left_out_and_only_what_is_too_much(
    rate_hz: int, target_ms: float, schedule: list[tuple[float, list[tuple[bool, int]]]]
) -> None:
    """Whatever comes whenever: every sample of sound passes in order, and no silence is lost without need."""
    clock, player, now_s, said = PlayoutClock(rate_hz, target_ms), _Player(rate_hz), 5.0, 0
    target, dropped = target_ms / 1000 * rate_hz, 0
    for pause_s, runs in schedule:
        now_s += pause_s
        pieces = []
        for silent, count in runs:
            pieces.append(np.zeros(count, np.float32) if silent else _ramp(said, count))
            said += 0 if silent else count
        chunk = np.concatenate([np.empty(0, np.float32), *pieces])
        ahead = max(0.0, player.free_at - now_s * rate_hz)
        kept = clock.admit(chunk, now_s)
        player.take(kept, now_s)
        lost = len(chunk) - len(kept)
        dropped += lost
        assert lost == 0 or ahead + len(kept) >= target - 0.01
        assert clock.ahead_ms / 1000 * rate_hz == pytest.approx(ahead + len(kept), abs=0.01)
        if len(chunk) >= rate_hz // 100 and not chunk.any():  # a silent chunk comes down to the target
            assert ahead + len(kept) <= max(ahead, target + 1)
    heard = np.concatenate([np.empty(0, np.float32), *player.played])
    assert np.array_equal(heard[heard != 0], _ramp(0, said))
    assert clock.dropped_samples == dropped


def test_a_wave_that_crosses_zero_is_no_silence() -> None:
    """Zeros in a word, fewer than 10 ms of them, stay even far above the target."""
    clock = PlayoutClock(24_000)
    word = _ramp(0, 24_000)
    word[5::10] = 0
    word[1000:1239] = 0
    for _ in range(3):
        assert np.array_equal(clock.admit(word, 0.0), word)
    word[1000:1240] = 0
    assert len(clock.admit(word, 0.0)) == 24_000 - 240


def test_a_restored_clock_goes_on_with_its_level() -> None:
    """The level and the count are kept; the time of day is that of the new place."""
    first = PlayoutClock(16_000)
    first.admit(_ramp(0, 16_000), 1000.0)
    first.admit(np.zeros(160, np.float32), 1000.0)
    second = PlayoutClock(16_000)
    second.load(first.save())
    assert second.ahead_ms == 1000 and second.dropped_samples == 160
    assert len(second.admit(np.zeros(1600, np.float32), 3.0)) == 0
    second.admit(_ramp(0, 160), 3.95)
    assert second.ahead_ms == pytest.approx(60)


def test_what_makes_no_sense_is_refused() -> None:
    """Rates and targets below zero, and audio of another shape or type."""
    with pytest.raises(ValueError, match="positive"):
        PlayoutClock(0)
    with pytest.raises(ValueError, match="positive"):
        PlayoutClock(8_000, target_ms=0)
    with pytest.raises(AudioError, match="one-dimensional float32"):
        PlayoutClock(8_000).admit(np.zeros((2, 80), np.float32), 0.0)
