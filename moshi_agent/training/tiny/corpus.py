"""The speech that training reads: built once into a folder, then memory-mapped.

A folder holds shards, `shard_007.npy` (int16 samples, one utterance after the other) beside
`shard_007.json` (what they are). The second is written last, so a shard that has it is whole and an
interrupted build goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny import world
from moshi_agent.training.tiny.any_words import rows_of_words
from moshi_agent.training.tiny.held_out_sentences import HELD_OUT_SENTENCES
from moshi_agent.training.tiny.phrases import Exchange, Lookup, Phrases
from moshi_agent.training.tiny.piper_voice import Phone
from moshi_agent.training.tiny.sentences import unknown_sentences
from moshi_agent.training.tiny.speech import (
    ANSWER_VOICE,
    RECORDINGS,
    Audio,
    SpokenText,
    Synthesiser,
    Voice,
    loud_span,
)
from moshi_agent.training.tiny.voices import HELD_OUT_VOICES, HIGH_VOICES, TRAINING_VOICES, VoiceGrid
from moshi_agent.training.tiny.word_times import SpokenWord

Kind = Literal["answer", "sentence", "said", "found", "question", "unknown", "recorded"]
SHARD_ITEMS = 200
MAX_PROCESSES = 2
FULL_SCALE = 32767.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """An utterance to be made.

    In the answer voice it is an `answer`, any `sentence`, something of the closed world to be `said` on
    demand, or what was `found` when the question `looked_up` was; else a caller's `question`, something
    `unknown` to the model, or the recording of a person.
    """

    kind: Kind
    text: str
    voice: Voice = ANSWER_VOICE
    looked_up: str | None = None


@dataclass(frozen=True, kw_only=True)
class CorpusPlan:
    """How much of what a corpus holds."""

    grammar_sentences: int = 700  # in the answer voice, as are the next two
    world_sentences: int = 900
    rows_of_words: int = 700
    renderings_per_question: int = 60
    unknown: int = 2400
    recordings: int = 400
    seed: int = 20

    def items(self, phrases: Phrases) -> list[Item]:
        """What training reads: answers first, then answer-voice sentences, then callers and recordings."""
        rng = np.random.default_rng(self.seed)
        unknown = [
            Item(kind="unknown", text=text, voice=TRAINING_VOICES.draw(rng))
            for text in unknown_sentences(self.unknown, self.seed + 2)
        ]
        questions = question_items(phrases.exchanges, self.renderings_per_question, TRAINING_VOICES, rng)
        recorded = [Item(kind="recorded", text="", voice=voice) for voice in recordings(self.recordings)]
        callers = [*questions, *unknown, *recorded]
        order = rng.permutation(len(callers))
        return [
            *(Item(kind="answer", text=text) for text in phrases.spoken),
            *(Item(kind="sentence", text=text) for text in self._sentences(phrases, rng)),
            *(callers[int(i)] for i in order),
        ]

    def _sentences(self, phrases: Phrases, rng: np.random.Generator) -> list[str]:
        """What the answer voice says beside the answers, in random order."""
        sentences = unknown_sentences(self.grammar_sentences, self.seed + 1)
        sentences += [exchange.question for exchange in phrases.exchanges]
        sentences += [world.sentence(rng) for _ in range(self.world_sentences)]
        sentences += rows_of_words(self.rows_of_words, self.seed + 3)
        return [sentences[int(i)] for i in rng.permutation(len(sentences))]


@dataclass(frozen=True, kw_only=True)
class CallSpeechPlan:
    """What the language model's calls are made of beside the codec's speech."""

    said: int = 2000  # sentences of the closed world
    found: int = 32  # answers to each question that is looked up
    renderings_per_question: int = 60
    high_renderings: int = 0  # of each question, too, in `HIGH_VOICES`
    high_unknown: int = 0
    seed: int = 120

    def items(self, phrases: Phrases) -> list[Item]:
        """The callers first, then the answer voice, each in random order."""
        rng = np.random.default_rng(self.seed)
        known = (*phrases.exchanges, *phrases.lookups)
        callers = question_items(known, self.renderings_per_question, TRAINING_VOICES, rng)
        callers += question_items(known, self.high_renderings, HIGH_VOICES, rng)
        callers += [
            Item(kind="unknown", text=text, voice=HIGH_VOICES.draw(rng))
            for text in unknown_sentences(self.high_unknown, self.seed + 2)
        ]
        spoken = [Item(kind="said", text=world.sentence(rng)) for _ in range(self.said)]
        spoken += found_items(phrases.lookups, self.found, rng)
        return [
            *(callers[int(i)] for i in rng.permutation(len(callers))),
            *(spoken[int(i)] for i in rng.permutation(len(spoken))),
        ]


@dataclass(frozen=True, kw_only=True)
class HeldOutPlan:
    """What measuring reads: held-out voice settings and sentences, and the answer voice to compare with."""

    renderings_per_question: int = 24
    renderings_per_sentence: int = 4
    renderings_per_lookup: int = 10
    found: int = 5  # answers to each question that is looked up
    said: int = 60  # sentences of the closed world
    voices: VoiceGrid = HELD_OUT_VOICES
    seed: int = 77

    def items(self, phrases: Phrases) -> list[Item]:
        """The answer voice, then every question and every held-out sentence in several voices."""
        rng = np.random.default_rng(self.seed)
        unknown = [
            Item(kind="unknown", text=text, voice=self.voices.draw(rng))
            for text in HELD_OUT_SENTENCES * self.renderings_per_sentence
        ]
        questions = question_items(phrases.exchanges, self.renderings_per_question, self.voices, rng)
        questions += question_items(phrases.lookups, self.renderings_per_lookup, self.voices, rng)
        return [
            *(Item(kind="answer", text=text) for text in phrases.spoken),
            *(Item(kind="said", text=world.sentence(rng)) for _ in range(self.said)),
            *found_items(phrases.lookups, self.found, rng),
            *questions,
            *unknown,
        ]


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Where an utterance lies in its shard, and what it says.

    `loud_start` and `loud_end` are the first and last sample of the speech itself (above -40 dBFS at the
    nominal level), counted from the utterance's start. `words` is empty except in the answer voice, `phones`
    where the engine does not tell them.
    """

    item: Item
    shard: int
    start: int
    length: int
    loud_start: int
    loud_end: int
    words: tuple[SpokenWord, ...] = ()
    phones: tuple[Phone, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """The utterances of a folder. Reading one copies it out of the memory-mapped shard."""

    utterances: tuple[Utterance, ...]
    shards: dict[int, NDArray[np.int16]] = field(repr=False)

    @classmethod
    def open(cls, *folders: Path) -> Corpus:
        """The shards that are whole, of all folders together. Raises ConfigError when a folder has none."""
        utterances: list[Utterance] = []
        shards: dict[int, NDArray[np.int16]] = {}
        for folder in folders:
            paths = sorted(folder.glob("shard_*.json"))
            if not paths:
                raise ConfigError(f"no corpus in {folder}; build it with build_corpus first")
            for path in paths:
                number = len(shards)
                shards[number] = np.load(path.with_suffix(".npy"), mmap_mode="r")
                rows = cast("list[dict[str, object]]", json.loads(path.read_text())["utterances"])
                utterances += [_utterance_from_json(row, number) for row in rows]
        return cls(tuple(utterances), shards)

    def of_kind(self, *kinds: Kind) -> list[Utterance]:
        """The utterances of these kinds, in the order of the plan."""
        return [utterance for utterance in self.utterances if utterance.item.kind in kinds]

    def audio(self, utterance: Utterance) -> Audio:
        """Its samples, float32 [length]."""
        samples = self.shards[utterance.shard][utterance.start : utterance.start + utterance.length]
        return samples.astype(np.float32) / np.float32(FULL_SCALE)


def build_corpus(folder: Path, items: list[Item], *, processes: int = MAX_PROCESSES) -> None:
    """Synthesise `items` into `folder`. Shards already made from the same items are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = [items[i : i + SHARD_ITEMS] for i in range(0, len(items), SHARD_ITEMS)]
    missing = [n for n, group in enumerate(groups) if not _is_built(folder, n, group)]
    build = partial(_build_shard, folder)
    progress = partial(tqdm, total=len(missing), desc="speech", unit="shard", disable=None)
    if processes <= 1 or len(missing) <= 1:
        for number in progress(missing):
            build(number, groups[number])
        return
    with ProcessPoolExecutor(min(processes, MAX_PROCESSES)) as pool:
        for _ in progress(pool.map(build, missing, [groups[n] for n in missing])):
            pass


def question_items(
    exchanges: Sequence[Exchange | Lookup], renderings: int, voices: VoiceGrid, rng: np.random.Generator
) -> list[Item]:
    """Each question in several voices; its final mark varies, since the engines' melody follows it."""
    items: list[Item] = []
    for exchange in exchanges:
        for _ in range(renderings):
            marks = (exchange.question[-1], exchange.question[-1], ".", "?")
            text = exchange.question[:-1] + marks[int(rng.integers(len(marks)))]
            items.append(Item(kind="question", text=text, voice=voices.draw(rng)))
    return items


def found_items(lookups: Sequence[Lookup], count: int, rng: np.random.Generator) -> list[Item]:
    """So many answers to each question that is looked up."""
    return [
        Item(kind="found", text=world.sentence(rng, lookup.answers), looked_up=lookup.question)
        for lookup in lookups
        for _ in range(count)
    ]


def recordings(count: int) -> list[Voice]:
    """Up to `count` recordings of a person, in the order of their names."""
    files = sorted(RECORDINGS.glob("en_US*/*.wav"))[:count]
    names = [str(file.relative_to(RECORDINGS).with_suffix("")) for file in files]
    return [Voice(engine="recorded", name=name) for name in names]


def _fingerprint(items: list[Item]) -> str:
    return hashlib.sha256(json.dumps([asdict(item) for item in items]).encode()).hexdigest()


def _is_built(folder: Path, number: int, items: list[Item]) -> bool:
    index_path = folder / f"shard_{number:03d}.json"
    return index_path.exists() and json.loads(index_path.read_text())["fingerprint"] == _fingerprint(items)


def _build_shard(folder: Path, number: int, items: list[Item]) -> None:
    index_path = folder / f"shard_{number:03d}.json"
    index_path.unlink(missing_ok=True)
    rows: list[dict[str, object]] = []
    pieces: list[NDArray[np.int16]] = []
    start = 0
    synthesiser = Synthesiser()
    for item in items:
        spoken = _spoken(synthesiser, item)
        audio = spoken.audio
        pieces.append(np.round(audio * FULL_SCALE).astype(np.int16))
        first, last = loud_span(audio)
        place = {"start": start, "length": len(audio), "loud_start": first, "loud_end": last}
        words = [[word.word, round(word.start, 4), round(word.end, 4)] for word in spoken.words]
        phones = [[phone.name, round(phone.end, 4)] for phone in spoken.phones]
        rows.append({"item": asdict(item), **place, "words": words, "phones": phones})
        start += len(audio)
    # Moved into place, never written over: a process that has the old shard mapped keeps it.
    unfinished = folder / f"unfinished_{number:03d}.npy"
    np.save(unfinished, np.concatenate(pieces))
    os.replace(unfinished, index_path.with_suffix(".npy"))
    unfinished.write_text(json.dumps({"fingerprint": _fingerprint(items), "utterances": rows}))
    os.replace(unfinished, index_path)


def _spoken(synthesiser: Synthesiser, item: Item) -> SpokenText:
    if item.kind in ("answer", "sentence", "said", "found"):
        return synthesiser.answer(item.text)
    return synthesiser.speak(item.text, item.voice, phones=True)


def _utterance_from_json(row: dict[str, object], shard: int) -> Utterance:
    fields = cast("dict[str, int]", {key: row[key] for key in ("start", "length", "loud_start", "loud_end")})
    item = cast("dict[str, Any]", row["item"])
    item["voice"] = Voice(**item["voice"])
    words = cast("list[tuple[str, float, float]]", row["words"])
    phones = cast("list[tuple[str, float]]", row["phones"])
    return Utterance(
        item=Item(**item),
        shard=shard,
        words=tuple(SpokenWord(word=word, start=start, end=end) for word, start, end in words),
        phones=tuple(Phone(name=name, end=end) for name, end in phones),
        **fields,
    )
