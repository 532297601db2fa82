"""The voices that ask the questions: those of training, and settings of them kept for measuring.

Speeds, pitches and tract lengths come from two grids without a common value, and a few voices occur in
measuring only, so a held-out rendering is never one that training has heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from moshi_agent.training.tiny.speech import Voice

# slt is kept for measuring, in flite and in festival: no training hears her.
FLITE_NAMES = ("kal", "kal16", "awb", "rms")
FLITE_WITHOUT_PITCH = ("rms",)
# "en" is British; under its other name, en-gb, espeak-ng ignores the variants.
TRAINING_ACCENTS = ("en-us", "en", "en-gb-scotland", "en-us-nyc", "en-gb-x-rp")
TRAINING_VARIANTS = (
    "",
    "+f2",
    "+f3",
    "+f5",
    "+m1",
    "+m3",
    "+m5",
    "+m7",
    "+Andy",
    "+Annie",
    "+klatt2",
    "+Diogo",
)
HELD_OUT_ACCENTS = ("en-us", "en", "en-gb-x-gbclan")
HELD_OUT_VARIANTS = ("", "+f3", "+m3", "+f4", "+m2", "+Alex", "+linda")


@dataclass(frozen=True, kw_only=True)
class VoiceGrid:
    """The settings that a voice is drawn from. `flite_share` of the draws are flite voices."""

    accents: tuple[str, ...]
    variants: tuple[str, ...]
    speeds: tuple[float, ...]
    flite_pitches_hz: tuple[int, ...]
    espeak_pitches: tuple[int, ...]
    tracts: tuple[float, ...]
    neural_tracts: tuple[float, ...]
    flite_share: float = 0.4
    neural_share: float = 0.25  # the answering voice itself, lively, and longer or shorter in the throat
    others: tuple[Voice, ...] = ()
    other_share: float = 0.0

    def draw(self, rng: np.random.Generator) -> Voice:
        """One voice of the grid."""
        kind = rng.random()
        if kind < self.flite_share:
            return self._draw_flite(rng)
        if kind < self.flite_share + self.neural_share:
            tract, speed = _pick(rng, self.neural_tracts), _pick(rng, self.speeds)
            return Voice(engine="piper", name="joe", speed=speed, tract=tract, lively=True)
        if kind < self.flite_share + self.neural_share + self.other_share:
            return _pick(rng, self.others)
        name = _pick(rng, self.accents) + _pick(rng, self.variants)
        return Voice(
            engine="espeak-ng",
            name=name,
            speed=_pick(rng, self.speeds),
            pitch=_pick(rng, self.espeak_pitches),
            tract=_pick(rng, self.tracts),
        )

    def _draw_flite(self, rng: np.random.Generator) -> Voice:
        name = _pick(rng, FLITE_NAMES)
        pitch = None if name in FLITE_WITHOUT_PITCH else _pick(rng, self.flite_pitches_hz)
        return Voice(
            engine="flite",
            name=name,
            speed=_pick(rng, self.speeds),
            pitch=pitch,
            tract=_pick(rng, self.tracts),
        )


TRAINING_VOICES = VoiceGrid(
    accents=TRAINING_ACCENTS,
    variants=TRAINING_VARIANTS,
    speeds=(0.8, 0.88, 0.96, 1.04, 1.12, 1.2, 1.28),
    flite_pitches_hz=(84, 96, 108, 120, 136, 152, 172, 196),
    espeak_pitches=(20, 32, 44, 56, 68, 80),
    tracts=(0.88, 0.94, 1.0, 1.06, 1.12, 1.18),
    neural_tracts=(0.85, 0.93, 1.02, 1.11, 1.2, 1.3, 1.4),
)
# Two women, and men made to sound like women: what the voices above are short of.
HIGH_VOICES = VoiceGrid(
    accents=TRAINING_ACCENTS,
    variants=("+f2", "+f3", "+f5", "+Annie"),
    speeds=TRAINING_VOICES.speeds,
    flite_pitches_hz=(150, 170, 190, 210, 235),
    espeak_pitches=(44, 56, 68, 80, 92),
    tracts=(1.06, 1.12, 1.18, 1.24, 1.3, 1.36),
    neural_tracts=(1.2, 1.3, 1.4),
    others=tuple(
        Voice(engine="pico", name=name, speed=speed, pitch=pitch, tract=tract)
        for name in ("en-US", "en-GB")
        for speed in (0.8, 0.9, 1.0, 1.1, 1.2)
        for pitch in (80, 90, 100, 110, 120)
        for tract in (0.9, 0.95, 1.0, 1.05, 1.1)
    ),
    flite_share=0.35,
    neural_share=0.0,
    other_share=0.55,
)
HELD_OUT_VOICES = VoiceGrid(
    accents=HELD_OUT_ACCENTS,
    variants=HELD_OUT_VARIANTS,
    speeds=(0.85, 0.92, 1.08, 1.16, 1.24),
    flite_pitches_hz=(90, 102, 128, 144, 184),
    espeak_pitches=(26, 38, 50, 62, 74),
    tracts=(0.91, 0.97, 1.03, 1.09, 1.15),
    neural_tracts=(0.89, 0.97, 1.06, 1.16, 1.25, 1.35),
    others=(  # kinds of voices that no training hears
        Voice(engine="flite", name="slt"),
        Voice(engine="flite", name="slt", speed=1.1, pitch=190),
        Voice(engine="festival", name="cmu_us_slt_arctic_hts"),
    ),
    other_share=0.2,
    flite_share=0.3,
    neural_share=0.25,
)


T = TypeVar("T")


def _pick(rng: np.random.Generator, choices: tuple[T, ...]) -> T:
    return choices[int(rng.integers(len(choices)))]
