"""What the callers of an evaluation say, and what the bot should say to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sentencepiece

from moshi_agent.training.tiny.answers import Answer, load_answers, make_answer
from moshi_agent.training.tiny.augment import HELD_OUT_AUGMENTATION, NoiseBank
from moshi_agent.training.tiny.corpus import Corpus, HeldOutPlan, Utterance, build_corpus
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.phrases import Phrases, load_phrases, plain


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One rendering of something to say to the bot, and the index of the answer that it should get."""

    utterance: Utterance
    answer: int
    known: bool


class Deck:
    """Prompts in rounds: every text once, in random order, before one comes again in its next rendering."""

    def __init__(self, pools: list[list[Prompt]], rng: Rng) -> None:
        self._pools = [[pool[int(i)] for i in rng.permutation(len(pool))] for pool in pools]
        self._rng = rng
        self._round = 0
        self._left: list[Prompt] = []

    def draw(self) -> Prompt:
        """The next one; after the last rendering the first comes again."""
        if not self._left:
            prompts = [pool[self._round % len(pool)] for pool in self._pools]
            self._left = [prompts[int(i)] for i in self._rng.permutation(len(prompts))]
            self._round += 1
        return self._left.pop()


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A rendering of a question that the bot is to hand over, and what it is then given to say."""

    asked: Utterance
    found: Answer


@dataclass(frozen=True, kw_only=True)
class Material:
    """Held-out renderings, noises, and the reference answers (as `Phrases.spoken`)."""

    corpus: Corpus
    answers: list[Answer]
    questions: list[list[Prompt]] = field(repr=False)  # a pool for each exchange
    unknown: list[list[Prompt]] = field(repr=False)  # a pool for each sentence that the bot does not know
    sentences: list[Answer] = field(repr=False)  # of the closed world, to be said on demand
    lookups: list[Lookup] = field(repr=False)
    noises: NoiseBank = field(repr=False)

    @classmethod
    def make(
        cls, corpus: Corpus, phrases: Phrases, tokenizer: sentencepiece.SentencePieceProcessor, seed: int = 0
    ) -> Material:
        """The material in `corpus`; `seed` makes the noises."""
        numbers = {plain(exchange.question): i for i, exchange in enumerate(phrases.exchanges)}
        questions: list[list[Prompt]] = [[] for _ in phrases.exchanges]
        for utterance in corpus.of_kind("question"):
            if plain(utterance.item.text) not in numbers:
                continue
            answer = numbers[plain(utterance.item.text)]
            questions[answer].append(Prompt(utterance=utterance, answer=answer, known=True))
        default = len(phrases.exchanges)
        unknown: dict[str, list[Prompt]] = {}
        for utterance in corpus.of_kind("unknown"):
            prompt = Prompt(utterance=utterance, answer=default, known=False)
            unknown.setdefault(utterance.item.text, []).append(prompt)
        return cls(
            corpus=corpus,
            answers=load_answers(corpus, phrases, tokenizer),
            questions=questions,
            unknown=list(unknown.values()),
            sentences=[make_answer(corpus, one, tokenizer) for one in corpus.of_kind("said")],
            lookups=_lookups(corpus, phrases, tokenizer),
            noises=NoiseBank.make(HELD_OUT_AUGMENTATION.noises, np.random.default_rng(seed)),
        )

    @property
    def greeting(self) -> int:
        """The index of the greeting among the answers."""
        return len(self.answers) - 1


def _lookups(
    corpus: Corpus, phrases: Phrases, tokenizer: sentencepiece.SentencePieceProcessor
) -> list[Lookup]:
    """Every rendering of every question to be looked up, with the things found in turn."""
    lookups: list[Lookup] = []
    for known in phrases.lookups:
        asked = [one for one in corpus.of_kind("question") if plain(one.item.text) == plain(known.question)]
        found = [
            make_answer(corpus, one, tokenizer)
            for one in corpus.of_kind("found")
            if one.item.looked_up == known.question
        ]
        if found:
            lookups += [Lookup(asked=one, found=found[i % len(found)]) for i, one in enumerate(asked)]
    return lookups


def open_material(folder: Path, tokenizer: sentencepiece.SentencePieceProcessor, seed: int) -> Material:
    """The held-out renderings of the shipped phrases in `folder`, made there as far as they are missing.

    Raises:
        ConfigError: they have to be made, and `flite` or `espeak-ng` is not installed.
    """
    phrases = load_phrases()
    build_corpus(folder, HeldOutPlan().items(phrases))
    return Material.make(Corpus.open(folder), phrases, tokenizer, seed)
