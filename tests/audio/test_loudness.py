"""Loudness as ITU-R BS.1770-4 has it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moshi_agent import AudioError
from moshi_agent.audio.loudness import at_loudness, loudness_lufs


def tone(hz: float, seconds: float, rate_hz: int, peak: float = 1.0) -> NDArray[np.float32]:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (peak * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 48_000])
def test_a_full_tone_of_997_hz_has_the_loudness_that_the_standard_says(rate_hz: int) -> None:
    assert loudness_lufs(tone(997, 5, rate_hz), rate_hz) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize(("hz", "lufs"), [(100, -4.84), (1000, -3.0), (3000, 0.1), (8000, 0.34)])
def test_low_tones_are_softer_and_high_ones_louder(hz: float, lufs: float) -> None:
    assert loudness_lufs(tone(hz, 3, 48_000), 48_000) == pytest.approx(lufs, abs=0.1)


def test_pauses_do_not_count() -> None:
    speech, pause = tone(500, 4, 24_000, 0.1), np.zeros(8 * 24_000, np.float32)
    soft = tone(500, 4, 24_000, 0.001)
    alone = loudness_lufs(speech, 24_000)
    assert loudness_lufs(np.concatenate([speech, pause]), 24_000) == pytest.approx(alone, abs=0.4)
    assert loudness_lufs(np.concatenate([speech, soft]), 24_000) == pytest.approx(alone, abs=0.4)


@pytest.mark.parametrize("peak", [0.001, 0.9])
def test_audio_is_brought_to_a_loudness(peak: float) -> None:
    louder = at_loudness(tone(440, 2, 24_000, peak), -24.0, 24_000)
    assert louder.dtype == np.float32
    assert loudness_lufs(louder, 24_000) == pytest.approx(-24.0, abs=1e-3)


def test_what_has_no_loudness_is_refused() -> None:
    with pytest.raises(AudioError, match=r"accepted: at least 0\.4 s"):
        loudness_lufs(tone(440, 0.3, 24_000), 24_000)
    with pytest.raises(AudioError, match="without anything to be heard"):
        loudness_lufs(np.zeros(24_000, np.float32), 24_000)
