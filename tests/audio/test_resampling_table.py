"""The tables in the docstring of `resampling`, measured: soxr's delays, and the filter's delay and bands.

Impulses at every place that an input can have among the outputs give the whole filter, at the rate of which
both rates are divisors. Its spectrum is what tones, mirror images and folded tones of all frequencies obey.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import soxr

from moshi_agent.audio import resampling
from moshi_agent.audio.resampling import StreamResampler

RATES_KHZ = (8.0, 16.0, 24.0, 44.1, 48.0)
PAIRS = [(low, high) for low in RATES_KHZ for high in RATES_KHZ if low < high]
PASSBAND, STOPBAND = 0.40, 0.55  # of the lower rate
SPECTRUM = 2**20


def _documented() -> dict[tuple[float, float], list[float]]:
    """Rows of the docstring's table: rates -> delay up and down in ms, passband and stopband in dB."""
    rows = re.findall(r"\| ([\d.]+) +([\d.]+) +\|(.*)\|", resampling.__doc__ or "")
    columns = {(float(low), float(high)): rest.replace("dB", "").split("|") for low, high, rest in rows}
    return {pair: [float(column) for column in rest] for pair, rest in columns.items()}


def _impulse_response(in_rate: int, out_rate: int) -> tuple[np.ndarray, int]:
    """The filter [T] and its sample rate, the least common multiple of both."""
    divisor = math.gcd(in_rate, out_rate)
    up, down = out_rate // divisor, in_rate // divisor
    first = 20 * down  # a whole number of periods into the stream, further than the filter reaches
    response: dict[int, float] = {}
    for place in range(first, first + down):
        samples = np.zeros(2 * first + down, np.float32)
        samples[place] = 1
        resampler = StreamResampler(in_rate, out_rate)
        out = np.concatenate([resampler.push(samples), resampler.flush()])
        response |= {n * down - place * up: float(out[n]) for n in np.flatnonzero(out)}
    start = min(response)
    filtered = np.zeros(max(response) - start + 1)
    filtered[np.array(list(response)) - start] = list(response.values())
    return filtered, up * in_rate


def _measured(in_khz: float, out_khz: float) -> tuple[float, float, float]:
    """Delay in ms, the largest deviation in the passband and the highest level in the stopband, in dB."""
    in_rate, out_rate = round(1000 * in_khz), round(1000 * out_khz)
    response, rate = _impulse_response(in_rate, out_rate)
    spectrum = abs(np.fft.rfft(response, SPECTRUM))
    levels_db = 20 * np.log10(spectrum / spectrum[0] + 1e-9)
    part = np.fft.rfftfreq(SPECTRUM, 1 / rate) / min(in_rate, out_rate)
    delay_ms = 1000 * StreamResampler(in_rate, out_rate).delay_samples / out_rate
    return delay_ms, abs(levels_db[part <= PASSBAND]).max(), levels_db[part >= STOPBAND].max()


def test_every_pair_of_rates_is_in_the_table() -> None:
    assert list(_documented()) == PAIRS


@pytest.mark.parametrize(("low", "high"), PAIRS)
def test_the_table_says_what_is_measured_and_that_is_enough(low: float, high: float) -> None:
    up_ms, pass_up, stop_up = _measured(low, high)
    down_ms, pass_down, stop_down = _measured(high, low)
    measured = [up_ms, down_ms, max(pass_up, pass_down), max(stop_up, stop_down)]
    assert _documented()[low, high][:3] == pytest.approx(measured[:3], abs=0.0051)
    assert _documented()[low, high][3] == pytest.approx(measured[3], abs=0.051)
    assert max(up_ms, down_ms) <= 2
    assert measured[2] <= 1
    assert measured[3] <= -60


def _held_back_ms(in_rate: int, out_rate: int, quality: str) -> float:
    """The most that a stream of soxr holds back of 5 s, fed with 10 ms at a time."""
    stream = soxr.ResampleStream(in_rate, out_rate, 1, dtype="float32", quality=quality)
    chunk, given, most_s = np.zeros(in_rate // 100, np.float32), 0, 0.0
    for number in range(1, 501):
        given += len(stream.resample_chunk(chunk))
        most_s = max(most_s, number * 0.01 - given / out_rate)
    return 1000 * most_s


def test_what_soxr_holds_back_is_in_the_other_table() -> None:
    """At every quality; of both directions, the worse one."""
    rows = re.findall(r"\| +(\d+) - (\d+) \|(.*)\|", resampling.__doc__ or "")
    assert [(low, high) for low, high, _ in rows] == [("24", "48"), ("8", "24")]
    for low, high, columns in rows:
        rates = int(low) * 1000, int(high) * 1000
        for quality, documented_ms in zip(("QQ", "LQ", "MQ", "HQ", "VHQ"), columns.split("|"), strict=True):
            held_back_ms = max(_held_back_ms(*pair, quality) for pair in (rates, rates[::-1]))
            assert float(documented_ms) == pytest.approx(held_back_ms, abs=0.051), (rates, quality)
