"""Changes a caller's voice as the way to the bot does: noise, filters, telephone and network codecs, echo.

Every function takes float32 [samples] at 24 kHz and gives as many samples back, in time with what went in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from moshi_agent.training.tiny import noise
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.opus import opus_round_trip
from moshi_agent.training.tiny.speech import SAMPLE_RATE_HZ, Audio

TELEPHONE_RATE_HZ = 8000
MU = 255.0
STRETCH_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Says how often each effect is drawn, and from which range. Effects overlap: each share is its own."""

    noise_share: float = 0.45
    mu_law_share: float = 0.25
    opus_share: float = 0.15
    echo_share: float = 0.3
    filter_share: float = 0.25
    snr_db: tuple[float, float] = (6.0, 30.0)
    level_db: tuple[float, float] = (-32.0, -12.0)
    burst_peak_db: tuple[float, float] = (-30.0, -6.0)
    echo_delay_ms: tuple[float, float] = (80.0, 300.0)
    echo_db: tuple[float, float] = (-40.0, -20.0)
    opus_loss: tuple[float, float] = (0.0, 0.04)
    opus_bit_rates: tuple[int, ...] = (16_000, 24_000, 32_000)
    noises: tuple[str, ...] = (*noise.TRAINING_NOISES, "babble")
    bursts: tuple[str, ...] = tuple(noise.TRAINING_BURSTS)


TRAINING_AUGMENTATION = Augmentation()
# One effect at a time is what measuring asks for; it sets the shares itself.
HELD_OUT_AUGMENTATION = Augmentation(
    snr_db=(12.0, 25.0),
    level_db=(-29.0, -15.0),
    burst_peak_db=(-24.0, -8.0),
    opus_loss=(0.02, 0.02),
    noises=tuple(noise.HELD_OUT_NOISES),
    bursts=tuple(noise.HELD_OUT_BURSTS),
)


@dataclass(frozen=True)
class NoiseBank:
    """Keeps stretches of each kind of noise, made once; drawing one copies from a random place in them."""

    noises: dict[str, Audio] = field(repr=False)  # each [stretches * STRETCH_SECONDS * SAMPLE_RATE_HZ]

    @classmethod
    def make(
        cls, kinds: Sequence[str], rng: Rng, voices: Sequence[Audio] = (), stretches: int = 1
    ) -> NoiseBank:
        """Makes `stretches` of each kind, no two alike. "babble" is mixed from `voices` and needs some."""
        makers = {**noise.TRAINING_NOISES, **noise.HELD_OUT_NOISES}
        if voices:
            makers["babble"] = partial(noise.babble, voices)
        samples = STRETCH_SECONDS * SAMPLE_RATE_HZ
        return cls(
            {
                kind: np.concatenate([makers[kind](samples, rng) for _ in range(stretches)])
                for kind in kinds
                if kind in makers
            }
        )

    def draw(self, samples: int, rng: Rng) -> Audio:
        """Draws noise of a random kind, [samples], at about unit rms."""
        kinds = list(self.noises)
        stretch = self.noises[kinds[int(rng.integers(len(kinds)))]]
        start = int(rng.integers(len(stretch)))
        return np.take(stretch, np.arange(start, start + samples), mode="wrap")


def decibels(value_db: float) -> np.float32:
    """Converts a level in dB to a factor."""
    return np.float32(10 ** (value_db / 20))


def mu_law_round_trip(audio: Audio) -> Audio:
    """Sends audio through a telephone line: 8 kHz, eight-bit mu-law."""
    narrow = cast("Audio", soxr.resample(audio, SAMPLE_RATE_HZ, TELEPHONE_RATE_HZ, quality="MQ"))
    compressed = np.sign(narrow) * np.log1p(MU * np.minimum(np.abs(narrow), 1)) / np.log1p(MU)
    # G.711 keeps 128 magnitudes for either sign.
    coded = np.round(compressed * 127) / 127
    expanded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MU)) / MU
    wide = soxr.resample(expanded.astype(np.float32), TELEPHONE_RATE_HZ, SAMPLE_RATE_HZ, quality="MQ")
    return _same_length(cast("Audio", wide), len(audio))


def through_opus(audio: Audio, rng: Rng, config: Augmentation) -> Audio:
    """Sends audio through an Opus call at one of the configured bit rates and losses."""
    bit_rate = config.opus_bit_rates[int(rng.integers(len(config.opus_bit_rates)))]
    return opus_round_trip(audio, bit_rate=bit_rate, lost=rng.uniform(*config.opus_loss), rng=rng)


def random_filter(audio: Audio, rng: Rng) -> Audio:
    """Colours audio as a microphone does, at the same level: a mild random slope, at times a narrow band."""
    sloped = cast("NDArray[np.float64]", signal.lfilter([1.0, rng.uniform(-0.4, 0.4)], [1.0], audio))
    coloured = sloped.astype(np.float32)
    if rng.random() < 0.5:
        coloured = noise.filtered(coloured, rng.uniform(60, 250), rng.uniform(3500, 9000))
    return coloured * np.float32(np.linalg.norm(audio) / max(float(np.linalg.norm(coloured)), 1e-9))


def echo_of(bot: Audio, rng: Rng, config: Augmentation) -> Audio:
    """Makes what of `bot` comes back into the caller's microphone: late, quiet and dull. [samples]"""
    delay = int(rng.uniform(*config.echo_delay_ms) * SAMPLE_RATE_HZ / 1000)
    factor = decibels(rng.uniform(*config.echo_db))
    # One pole is as dull as a far loudspeaker needs to be.
    pole = rng.uniform(0.2, 0.7)
    late = np.concatenate([np.zeros(delay, np.float32), bot[: len(bot) - delay]])
    dull = cast("NDArray[np.float64]", signal.lfilter([1 - pole], [1.0, -pole], late))
    return dull.astype(np.float32) * factor


def burst(rng: Rng, config: Augmentation) -> Audio:
    """Makes a cough, a knock or the like, at a random peak level."""
    makers = {**noise.TRAINING_BURSTS, **noise.HELD_OUT_BURSTS}
    kind = config.bursts[int(rng.integers(len(config.bursts)))]
    return makers[kind](rng) * decibels(rng.uniform(*config.burst_peak_db))


def _same_length(audio: Audio, samples: int) -> Audio:
    if len(audio) >= samples:
        return audio[:samples]
    return np.concatenate([audio, np.zeros(samples - len(audio), np.float32)])
