"""Random pieces of sound for training the codec."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moshi_agent.training.tiny import augment
from moshi_agent.training.tiny.augment import NoiseBank
from moshi_agent.training.tiny.corpus import Corpus, Utterance
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, Audio

QUIETEST_DB, LOUDEST_QUIET_DB = -75.0, -40.0


@dataclass(frozen=True, kw_only=True)
class CropMix:
    """Shares of a batch: the answer voice, other voices; what remains is silence and low noise.

    Of the answer voice, `answer_share` are the answers themselves, and `exact_share` of those are at their
    true level and on the frame grid, as in a conversation.
    """

    answer_voice: float = 0.45
    other_voices: float = 0.45
    answer_share: float = 0.6
    exact_share: float = 0.6
    outside: float = 0.4  # how much of a crop may lie before or after the utterance


@dataclass(frozen=True)
class CropSampler:
    """Draws batches of crops from a corpus."""

    corpus: Corpus
    noises: NoiseBank = field(repr=False)
    answers: list[Utterance] = field(repr=False)
    sentences: list[Utterance] = field(repr=False)
    others: list[Utterance] = field(repr=False)
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
        others = corpus.of_kind("question", "unknown")
        return cls(corpus, noises, answers, sentences, others, mix or CropMix(), config)

    def sample_crops(self, rng: Rng, batch: int, samples: int) -> Audio:
        """A batch of crops, float32 [batch, samples]."""
        return np.stack([self._crop(rng, samples) for _ in range(batch)])

    def _crop(self, rng: Rng, samples: int) -> Audio:
        drawn = rng.random()
        if drawn < self.mix.answer_voice:
            return self._answer_voice(rng, samples)
        if drawn < self.mix.answer_voice + self.mix.other_voices:
            return self._other_voice(rng, samples)
        return self._quiet(rng, samples)

    def _answer_voice(self, rng: Rng, samples: int) -> Audio:
        if rng.random() >= self.mix.answer_share:
            crop = self._piece(rng, self.sentences, samples, step=1)
            return crop * augment.decibels(rng.uniform(-6, 3))
        if rng.random() < self.mix.exact_share:
            return self._piece(rng, self.answers, samples, step=FRAME_SAMPLES)
        return self._piece(rng, self.answers, samples, step=1) * augment.decibels(rng.uniform(-3, 2))

    def _other_voice(self, rng: Rng, samples: int) -> Audio:
        config = self.config
        crop = self._piece(rng, self.others, samples, step=1)
        if rng.random() < config.filter_share:
            crop = augment.random_filter(crop, rng)
        # The utterances lie at -20 dBFS.
        crop = crop * augment.decibels(rng.uniform(*config.level_db) + 20)
        if rng.random() < config.noise_share:
            noise_db = rng.uniform(*config.level_db) - rng.uniform(*config.snr_db)
            crop = crop + self._noise(rng, samples, noise_db)
        if rng.random() < config.mu_law_share:
            crop = augment.mu_law_round_trip(crop)
        return np.clip(crop, -1, 1)

    def _quiet(self, rng: Rng, samples: int) -> Audio:
        """Digital silence, low noise, or low noise that starts or stops in the middle."""
        kind = rng.random()
        if kind < 0.35:
            return np.zeros(samples, np.float32)
        crop = self._noise(rng, samples, rng.uniform(QUIETEST_DB, LOUDEST_QUIET_DB))
        edge = int(rng.integers(samples))
        if kind < 0.55:
            crop[:edge] = 0
        elif kind < 0.75:
            crop[edge:] = 0
        return crop

    def _noise(self, rng: Rng, samples: int, level_db: float) -> Audio:
        return self.noises.draw(samples, rng) * augment.decibels(level_db)

    def _piece(self, rng: Rng, pool: list[Utterance], samples: int, step: int) -> Audio:
        """A stretch of a random utterance that may begin before it or end after it, in digital silence."""
        audio = self.corpus.audio(pool[int(rng.integers(len(pool)))])
        outside = int(samples * self.mix.outside)
        earliest, latest = -outside, max(len(audio) - samples + outside, -outside + 1)
        start = int(rng.integers(earliest, latest)) // step * step
        crop = np.zeros(samples, np.float32)
        taken = audio[max(start, 0) : max(start + samples, 0)]
        offset = max(-start, 0)
        crop[offset : offset + len(taken)] = taken[: samples - offset]
        return crop
