"""The sample rate of live audio changes, and nothing else does."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from moshi_agent.audio.resampling import StreamResampler
from moshi_agent.errors import AudioError

RATES = [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]
ODD_RATES = [(24_000, 44_101), (12_345, 24_000)]  # whose ratio is no small one
LIVE_PAIRS = [(rate, 24_000) for rate in RATES] + [(24_000, rate) for rate in RATES] + ODD_RATES


def _all_of(resampler: StreamResampler, *chunks: np.ndarray) -> np.ndarray:
    return np.concatenate([*(resampler.push(chunk) for chunk in chunks), resampler.flush()])


def _sine(frequency_hz: float, rate_hz: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * seconds)) / rate_hz).astype(np.float32)


def _level_db(samples: np.ndarray) -> float:
    """Of the middle half, where the stream's beginning and end have no part, against a full-scale sine."""
    middle = samples[len(samples) // 4 : -len(samples) // 4].astype(np.float64)
    return 10 * np.log10(np.mean(middle**2) * 2 + 1e-20)


@settings(max_examples=60)
@given(
    st.sampled_from(LIVE_PAIRS),
    st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_how_the_stream_is_cut_changes_no_bit_of_the_output(
    rates: tuple[int, int], sizes: list[int], seed: int
) -> None:
    stream = np.random.default_rng(seed).standard_normal(sum(sizes)).astype(np.float32)
    pieces = np.split(stream, np.cumsum(sizes)[:-1])
    assert np.array_equal(_all_of(StreamResampler(*rates), *pieces), _all_of(StreamResampler(*rates), stream))


@settings(max_examples=60)
@given(st.sampled_from(LIVE_PAIRS), st.lists(st.integers(0, 3000), max_size=12))
def test_it_never_holds_back_more_than_it_says_and_loses_nothing(
    rates: tuple[int, int], sizes: list[int]
) -> None:
    in_rate, out_rate = rates
    resampler = StreamResampler(in_rate, out_rate)
    heard = said = 0
    for size in sizes:
        heard += size
        said += len(resampler.push(np.zeros(size, np.float32)))
        held_back = heard * out_rate / in_rate - said
        assert -1 < held_back <= resampler.delay_samples
    assert said + len(resampler.flush()) == -(-heard * out_rate // in_rate)


@pytest.mark.parametrize(
    ("rates", "delay_ms"), [((8_000, 24_000), 1.875), ((24_000, 8_000), 1.875), ((16_000, 24_000), 0.958)]
)
def test_the_delay_of_telephone_and_wideband_audio_is_known(rates: tuple[int, int], delay_ms: float) -> None:
    assert StreamResampler(*rates).delay_samples / rates[1] * 1000 == pytest.approx(delay_ms, abs=0.001)


@pytest.mark.parametrize("rates", LIVE_PAIRS)
def test_a_tone_within_the_band_keeps_its_place_in_time(rates: tuple[int, int]) -> None:
    frequency_hz = 0.39 * min(rates)
    out = _all_of(StreamResampler(*rates), _sine(frequency_hz, rates[0]))
    assert _level_db(out - _sine(frequency_hz, rates[1])) < -55


@pytest.mark.parametrize(("in_rate", "out_rate"), [(48_000, 24_000), (44_100, 24_000), (24_000, 8_000)])
def test_a_tone_above_the_band_is_not_folded_into_it(in_rate: int, out_rate: int) -> None:
    out = _all_of(StreamResampler(in_rate, out_rate), _sine(0.56 * out_rate, in_rate))
    assert _level_db(out) < -55


@pytest.mark.parametrize("in_rate", [8_000, 16_000])
def test_a_tone_leaves_no_mirror_image_at_a_higher_rate(in_rate: int) -> None:
    out = _all_of(StreamResampler(in_rate, 24_000), _sine(0.3 * in_rate, in_rate))
    spectrum = abs(np.fft.rfft(out * np.hanning(len(out))))
    image = spectrum[round(0.6 * in_rate * len(out) / 24_000) :]
    assert 20 * np.log10(image.max() / spectrum.max()) < -55


@pytest.mark.parametrize("rates", [(8_000, 24_000), (48_000, 24_000), (24_000, 44_100)])
def test_noise_within_the_band_comes_out_as_from_soxr(rates: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).standard_normal(rates[0]).astype(np.float32)
    low = soxr.resample(soxr.resample(noise, rates[0], 0.6 * min(rates)), 0.6 * min(rates), rates[0])[
        : rates[0]
    ]
    ours = _all_of(StreamResampler(*rates), low)
    theirs = soxr.resample(low, *rates)
    assert _level_db(ours[: len(theirs)] - theirs[: len(ours)]) < _level_db(theirs) - 55


def test_between_equal_rates_every_sample_passes_at_once() -> None:
    resampler = StreamResampler(24_000, 24_000)
    samples = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    assert np.array_equal(resampler.push(samples), samples)
    assert resampler.delay_samples == 0


def test_a_long_stream_is_not_remembered() -> None:
    resampler = StreamResampler(48_000, 24_000)
    for _ in range(200):
        resampler.push(np.zeros(4_800, np.float32))
    kept = [value for value in vars(resampler).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in kept) < 25e-3 * 48_000 * 4  # 25 ms of it


def test_a_chunk_of_a_minute_is_resampled_in_pieces() -> None:
    stream = np.random.default_rng(0).standard_normal(60 * 8_000).astype(np.float32)
    tracemalloc.start()
    out = StreamResampler(8_000, 24_000).push(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * out.nbytes


@pytest.mark.parametrize("rate_hz", [0, -8_000, 3_999, 192_001])
def test_a_rate_that_no_live_audio_has_is_refused_with_the_accepted_ones(rate_hz: int) -> None:
    with pytest.raises(AudioError, match="4000 to 192000"):
        StreamResampler(rate_hz, 24_000)
