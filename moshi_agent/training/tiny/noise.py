"""Makes synthetic noise: lasting kinds for a background, and short bursts such as a cough or a knock.

Every kind is made from a random generator and comes out at unit root mean square (lasting kinds) or unit
peak (bursts). The held-out kinds are for measuring and never drawn in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ, Audio

Rng = np.random.Generator
Samples = NDArray[np.float32] | NDArray[np.float64]
NoiseMaker = Callable[[int, Rng], Audio]  # (samples, rng) -> [samples]
BurstMaker = Callable[[Rng], Audio]  # rng -> [samples], 0.05 to 1 s
BABBLE_VOICES = 6


def unit_rms(audio: Samples) -> Audio:
    """Scales `audio` to unit root mean square; silence stays silence."""
    rms = float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))
    return (audio / rms if rms > 0 else audio).astype(np.float32)


def filtered(audio: Audio, low_hz: float, high_hz: float) -> Audio:
    """Filters `audio` by a second-order Butterworth band-pass."""
    design = signal.butter(2, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    sections = cast("NDArray[np.float64]", design)
    return cast("NDArray[np.float64]", signal.sosfilt(sections, audio)).astype(np.float32)


def coloured(samples: int, rng: Rng, slope: float) -> Audio:
    """Makes noise whose amplitude falls as frequency to the power of `slope`: 0 white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.arange(len(spectrum), dtype=np.float64)
    frequency[0] = 1
    # Flat below 30 Hz, so that no slow swing eats the headroom.
    floor = 30 * samples / SAMPLE_RATE_HZ
    shaped = np.fft.irfft(spectrum * np.maximum(frequency, floor) ** -slope, samples)
    return unit_rms(shaped.astype(np.float32))


def white(samples: int, rng: Rng) -> Audio:
    """Makes white noise."""
    return rng.standard_normal(samples).astype(np.float32)


def pink(samples: int, rng: Rng) -> Audio:
    """Makes pink noise."""
    return coloured(samples, rng, 0.5)


def brown(samples: int, rng: Rng) -> Audio:
    """Makes brown noise."""
    return coloured(samples, rng, 1.0)


def hum(samples: int, rng: Rng) -> Audio:
    """Makes mains hum at 50 or 60 Hz with its harmonics, over a little hiss."""
    base_hz = 50.0 if rng.random() < 0.5 else 60.0
    tones = _harmonics(samples, rng, base_hz * np.ones(samples), count=8)
    return unit_rms(tones + 0.1 * pink(samples, rng))


def crackle(samples: int, rng: Rng) -> Audio:
    """Makes a bad line: sparse clicks over hiss."""
    clicks = np.zeros(samples, np.float32)
    places = rng.integers(samples, size=max(samples * 8 // SAMPLE_RATE_HZ, 1))
    clicks[places] = rng.normal(0, 60, len(places))
    return unit_rms(filtered(clicks, 400, 6000) + 0.5 * white(samples, rng))


def room(samples: int, rng: Rng) -> Audio:
    """Makes air, a fan, a street far away: a random colour in a random band, rising and falling."""
    band = filtered(
        coloured(samples, rng, rng.uniform(-0.2, 0.9)), rng.uniform(40, 600), rng.uniform(1500, 10_000)
    )
    return unit_rms(band * (1 + rng.uniform(0, 0.8) * _swell(samples, rng, rng.uniform(0.2, 3))))


def drone(samples: int, rng: Rng) -> Audio:
    """Makes a machine: harmonics of a tone that is nearly steady, over a little hiss."""
    base_hz = rng.uniform(70, 300) * (1 + 0.05 * _swell(samples, rng, 0.5).astype(np.float64))
    return unit_rms(_harmonics(samples, rng, base_hz, count=12) + rng.uniform(0.05, 0.5) * pink(samples, rng))


def rustle(samples: int, rng: Rng) -> Audio:
    """Makes paper, steps, cutlery: short sounds in a random band, few or many, in a quiet room."""
    clicks = np.zeros(samples, np.float32)
    places = rng.integers(samples, size=max(samples * int(rng.integers(2, 60)) // SAMPLE_RATE_HZ, 1))
    clicks[places] = rng.exponential(1, len(places))
    tail = _decaying(white(2400, rng), rng.uniform(0.002, 0.03))
    sounds = cast("Audio", signal.fftconvolve(clicks, tail)[:samples]).astype(np.float32)
    return unit_rms(
        unit_rms(filtered(sounds, rng.uniform(200, 2000), rng.uniform(3000, 10_000)))
        + 0.05 * pink(samples, rng)
    )


def rain(samples: int, rng: Rng) -> Audio:
    """Makes rain, held out: many drops over high hiss that swells slowly."""
    drops = np.zeros(samples, np.float32)
    places = rng.integers(samples, size=max(samples * 120 // SAMPLE_RATE_HZ, 1))
    drops[places] = rng.exponential(12, len(places))
    hiss = filtered(white(samples, rng), 1500, 9000) * (1 + 0.4 * _swell(samples, rng, 0.7))
    return unit_rms(filtered(drops, 900, 7000) + hiss)


def engine(samples: int, rng: Rng) -> Audio:
    """Makes a motor, held out: its speed wanders, with a rough beat."""
    speed_hz = 38 * (1 + 0.25 * _swell(samples, rng, 0.3).astype(np.float64)) + rng.uniform(-8, 8)
    tones = _harmonics(samples, rng, speed_hz, count=16)
    beat = 1 + 0.5 * np.sin(np.cumsum(speed_hz / 2) * 2 * np.pi / SAMPLE_RATE_HZ)
    return unit_rms((tones * beat).astype(np.float32) + 0.3 * brown(samples, rng))


def typing_noise(samples: int, rng: Rng) -> Audio:
    """Makes key strokes, held out: six a second, in a quiet room."""
    keys = np.float32(0.02) * pink(samples, rng)
    for start in rng.integers(samples, size=max(samples * 6 // SAMPLE_RATE_HZ, 1)):
        stroke = _decaying(filtered(white(1200, rng), 1200, 8000), 0.008) * np.float32(rng.uniform(0.5, 1.5))
        keys[start : start + 1200] += stroke[: samples - start]
    return unit_rms(keys)


def wind(samples: int, rng: Rng) -> Audio:
    """Makes wind, held out: brown noise in gusts."""
    return unit_rms(brown(samples, rng) * (1 + 0.9 * _swell(samples, rng, 1.5)))


def babble(voices: Sequence[Audio], samples: int, rng: Rng) -> Audio:
    """Mixes several of `voices`, which speak without pause at the same time."""
    mixed = np.zeros(samples, np.float32)
    for _ in range(BABBLE_VOICES):
        said = [voices[int(i)] for i in rng.integers(len(voices), size=8)]
        line = np.resize(np.concatenate(said), samples)
        mixed += np.roll(line, int(rng.integers(samples)))
    return unit_rms(mixed)


def cough(rng: Rng) -> Audio:
    """Makes one to three pushes of mid-band noise."""
    pushes = [_push(rng) for _ in range(int(rng.integers(1, 4)))]
    return _unit_peak(np.concatenate(pushes))


def knock(rng: Rng) -> Audio:
    """Makes one to three knocks on wood."""
    length = int(rng.uniform(0.08, 0.2) * SAMPLE_RATE_HZ)
    time_s = np.arange(length) / SAMPLE_RATE_HZ
    tone = np.sin(2 * np.pi * rng.uniform(90, 420) * time_s) + 0.3 * rng.standard_normal(length)
    one = _decaying(tone.astype(np.float32), rng.uniform(0.01, 0.04))
    return _unit_peak(np.tile(one, int(rng.integers(1, 4))))


def breath(rng: Rng) -> Audio:
    """Makes a hiss that swells and fades."""
    length = int(rng.uniform(0.2, 0.8) * SAMPLE_RATE_HZ)
    low_hz = rng.uniform(300, 1200)
    hiss = filtered(white(length, rng), low_hz, low_hz * rng.uniform(3, 6))
    return _unit_peak(hiss * np.hanning(length).astype(np.float32))


def clatter(rng: Rng) -> Audio:
    """Makes small hard things fall: a few ringing clicks."""
    audio = np.zeros(int(rng.uniform(0.1, 0.6) * SAMPLE_RATE_HZ), np.float32)
    for start in rng.integers(len(audio) - 1000, size=int(rng.integers(2, 8))):
        ring = np.sin(2 * np.pi * rng.uniform(1500, 7000) * np.arange(1000) / SAMPLE_RATE_HZ)
        audio[start : start + 1000] += _decaying(ring.astype(np.float32), 0.006) * np.float32(
            rng.uniform(0.3, 1)
        )
    return _unit_peak(audio)


def thud(rng: Rng) -> Audio:
    """Makes something heavy or soft fall: noise of a random colour that fades at once, once or twice."""
    length = int(rng.uniform(0.1, 0.5) * SAMPLE_RATE_HZ)
    one = _decaying(coloured(length, rng, rng.uniform(0, 1)), rng.uniform(0.02, 0.15))
    return _unit_peak(np.tile(one, int(rng.integers(1, 3))))


def slam(rng: Rng) -> Audio:
    """Makes a door slam, held out: a low thump and its rattle."""
    length = int(0.5 * SAMPLE_RATE_HZ)
    thump = _decaying(brown(length, rng), 0.09) + _decaying(filtered(white(length, rng), 300, 2500), 0.03)
    return _unit_peak(thump.astype(np.float32))


def sneeze(rng: Rng) -> Audio:
    """Makes a sneeze, held out: a short rise of hiss, then a burst of it."""
    rise = int(rng.uniform(0.1, 0.25) * SAMPLE_RATE_HZ)
    intake = filtered(white(rise, rng), 800, 4000) * np.linspace(0, 0.2, rise, dtype=np.float32)
    burst = _decaying(filtered(white(int(0.35 * SAMPLE_RATE_HZ), rng), 1200, 7000), 0.08)
    return _unit_peak(np.concatenate([intake, burst]))


TRAINING_NOISES: dict[str, NoiseMaker] = {
    "white": white,
    "pink": pink,
    "brown": brown,
    "hum": hum,
    "crackle": crackle,
    "room": room,
    "drone": drone,
    "rustle": rustle,
}
HELD_OUT_NOISES: dict[str, NoiseMaker] = {
    "rain": rain,
    "engine": engine,
    "typing": typing_noise,
    "wind": wind,
}
TRAINING_BURSTS: dict[str, BurstMaker] = {
    "cough": cough,
    "knock": knock,
    "breath": breath,
    "clatter": clatter,
    "thud": thud,
}
HELD_OUT_BURSTS: dict[str, BurstMaker] = {"slam": slam, "sneeze": sneeze}


def _unit_peak(audio: Audio) -> Audio:
    return audio / np.float32(max(float(np.abs(audio).max()), 1e-9))


def _push(rng: Rng) -> Audio:
    length = int(rng.uniform(0.1, 0.3) * SAMPLE_RATE_HZ)
    low_hz = rng.uniform(200, 600)
    return _decaying(
        filtered(white(length, rng), low_hz, low_hz * rng.uniform(4, 9)), rng.uniform(0.03, 0.09)
    )


def _decaying(audio: Audio, time_s: float) -> Audio:
    return audio * np.exp(-np.arange(len(audio)) / (time_s * SAMPLE_RATE_HZ)).astype(np.float32)


def _swell(samples: int, rng: Rng, rate_hz: float) -> Audio:
    """A slow random curve between about -1 and 1."""
    knots = rng.uniform(-1, 1, max(int(samples / SAMPLE_RATE_HZ * rate_hz * 2), 1) + 3)
    places = np.linspace(0, len(knots) - 1, samples)
    return np.interp(places, np.arange(len(knots)), knots).astype(np.float32)


def _harmonics(samples: int, rng: Rng, base_hz: NDArray[np.float64], count: int) -> Audio:
    phase = np.cumsum(base_hz) * 2 * np.pi / SAMPLE_RATE_HZ
    weights = rng.uniform(0.2, 1, count) / np.arange(1, count + 1)
    tones = np.zeros(samples)
    for order, weight in enumerate(weights, start=1):
        tones += weight * np.sin(order * phase + rng.uniform(0, 2 * np.pi))
    return tones.astype(np.float32)
