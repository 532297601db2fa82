"""Random pieces of sound for training the codec, with what should be heard in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from moshi_agent.training.mimi.codec import CropBatch
from moshi_agent.training.tiny import augment
from moshi_agent.training.tiny.augment import NoiseBank
from moshi_agent.training.tiny.corpus import Corpus, Utterance
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.phone_labels import SILENCE, STEP, Labels, phone_labels
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, Audio

T = TypeVar("T", bound=np.generic)
QUIETEST_DB, LOUDEST_QUIET_DB = -75.0, -40.0


@dataclass(frozen=True, kw_only=True)
class CropMix:
    """Shares of a batch: the answer voice, other voices; what remains is silence and low noise.

    Of the answer voice, `answer_share` are the answers themselves, and `exact_share` is at its true level and
    on the frame grid, as in a conversation.
    """

    answer_voice: float = 0.45
    other_voices: float = 0.47
    answer_share: float = 0.1
    exact_share: float = 0.5
    recorded_share: float = 0.1  # of the other voices
    burst_share: float = 0.4  # of silence and low noise
    outside: float = 0.3  # how much of a crop may lie before or after the utterance


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A piece of sound."""

    heard: Audio  # [samples]
    clean: Audio  # [samples], the speech in it alone
    phones: Labels  # [samples / STEP]
    own: bool = False  # the answer voice alone


@dataclass(frozen=True)
class CropSampler:
    """Draws batches of crops from a corpus."""

    corpus: Corpus
    noises: NoiseBank = field(repr=False)
    answers: list[Utterance] = field(repr=False)
    sentences: list[Utterance] = field(repr=False)
    others: list[Utterance] = field(repr=False)
    recorded: list[Utterance] = field(repr=False)
    mix: CropMix = field(default_factory=CropMix)
    config: augment.Augmentation = augment.TRAINING_AUGMENTATION

    @classmethod
    def open(cls, folder: Path, *, mix: CropMix | None = None, seed: int = 0) -> CropSampler:
        """A sampler of the corpus in `folder`; `seed` makes its noise bank."""
        corpus = Corpus.open(folder)
        config = augment.TRAINING_AUGMENTATION
        voices = [corpus.audio(utterance) for utterance in corpus.of_kind("unknown")[:100]]
        noises = NoiseBank.make(config.noises, np.random.default_rng(seed), voices)
        answers, sentences = corpus.of_kind("answer"), corpus.of_kind("sentence")
        others, recorded = corpus.of_kind("question", "unknown"), corpus.of_kind("recorded")
        return cls(corpus, noises, answers, sentences, others, recorded, mix or CropMix(), config)

    def sample_crops(self, rng: Rng, batch: int, samples: int) -> CropBatch:
        """A batch of crops of whole frames."""
        crops = [self._crop(rng, samples) for _ in range(batch)]
        return CropBatch(
            heard=np.stack([crop.heard for crop in crops]),
            clean=np.stack([crop.clean for crop in crops]),
            phones=np.stack([crop.phones for crop in crops]),
            own=np.array([crop.own for crop in crops]),
        )

    def _crop(self, rng: Rng, samples: int) -> Crop:
        drawn = rng.random()
        if drawn < self.mix.answer_voice:
            return self._answer_voice(rng, samples)
        if drawn < self.mix.answer_voice + self.mix.other_voices:
            return self._other_voice(rng, samples)
        return self._quiet(rng, samples)

    def _answer_voice(self, rng: Rng, samples: int) -> Crop:
        pool = self.answers if rng.random() < self.mix.answer_share else self.sentences
        exact = rng.random() < self.mix.exact_share
        crop, phones = self._piece(rng, pool, samples, step=FRAME_SAMPLES if exact else STEP)
        if not exact:
            crop = np.clip(crop * augment.decibels(rng.uniform(-6, 3)), -1, 1)
        return Crop(heard=crop, clean=crop, phones=phones, own=True)

    def _other_voice(self, rng: Rng, samples: int) -> Crop:
        config = self.config
        recorded = bool(self.recorded) and rng.random() < self.mix.recorded_share
        clean, phones = self._piece(rng, self.recorded if recorded else self.others, samples, step=STEP)
        if rng.random() < config.filter_share:
            clean = augment.random_filter(clean, rng)
        # The utterances lie at -20 dBFS.
        clean = clean * augment.decibels(rng.uniform(*config.level_db) + 20)
        heard = clean
        if rng.random() < config.noise_share:
            noise_db = rng.uniform(*config.level_db) - rng.uniform(*config.snr_db)
            heard = heard + self._noise(rng, samples, noise_db)
        if rng.random() < config.mu_law_share:
            heard = augment.mu_law_round_trip(heard)
        return Crop(heard=np.clip(heard, -1, 1), clean=np.clip(clean, -1, 1), phones=phones)

    def _quiet(self, rng: Rng, samples: int) -> Crop:
        """Digital silence, low noise, or low noise that starts or stops in the middle; often with a knock."""
        kind = rng.random()
        heard = self._noise(rng, samples, rng.uniform(QUIETEST_DB, LOUDEST_QUIET_DB))
        edge = int(rng.integers(samples))
        if kind < 0.35:
            heard[:] = 0
        elif kind < 0.55:
            heard[:edge] = 0
        elif kind < 0.75:
            heard[edge:] = 0
        clean = heard.copy()
        if rng.random() < self.mix.burst_share:
            burst = augment.burst(rng, self.config)[: samples - edge]
            heard[edge : edge + len(burst)] += burst
        phones = np.full(samples // STEP, SILENCE, np.int64)
        return Crop(heard=np.clip(heard, -1, 1), clean=clean, phones=phones)

    def _noise(self, rng: Rng, samples: int, level_db: float) -> Audio:
        return self.noises.draw(samples, rng) * augment.decibels(level_db)

    def _piece(self, rng: Rng, pool: list[Utterance], samples: int, step: int) -> tuple[Audio, Labels]:
        """A stretch of a random utterance that may begin before it or end after it, in digital silence.

        It begins at a multiple of `step`, itself one of STEP: [samples] and its labels [samples / STEP].
        """
        utterance = pool[int(rng.integers(len(pool)))]
        audio = self.corpus.audio(utterance)
        labels = phone_labels(utterance.phones, len(audio))
        outside = int(samples * self.mix.outside)
        earliest, latest = -outside, max(len(audio) - samples + outside, -outside + 1)
        start = int(rng.integers(earliest, latest)) // step * step
        piece = _stretch(audio, start, samples, np.float32(0))
        return piece, _stretch(labels, start // STEP, samples // STEP, np.int64(SILENCE))


def _stretch(values: NDArray[T], start: int, count: int, outside: T) -> NDArray[T]:
    """[n] -> [count] from `start` on, which may lie before the first."""
    piece = np.full(count, outside, values.dtype)
    taken = values[max(start, 0) : max(start + count, 0)]
    offset = max(-start, 0)
    piece[offset : offset + len(taken)] = taken[: count - offset]
    return piece
