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
from moshi_agent.training.tiny.held_out_sentences import HELD_OUT_SENTENCES
from moshi_agent.training.tiny.phrases import Exchange, Phrases
from moshi_agent.training.tiny.sentences import unknown_sentences
from moshi_agent.training.tiny.speech import (
    ANSWER_VOICE,
    Audio,
    SpokenWord,
    Voice,
    loud_span,
    synthesise,
    synthesise_answer,
)
from moshi_agent.training.tiny.voices import HELD_OUT_VOICES, TRAINING_VOICES, VoiceGrid

Kind = Literal["answer", "sentence", "question", "unknown"]
SHARD_ITEMS = 200
MAX_PROCESSES = 2
FULL_SCALE = 32767.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """An utterance to be made: an `answer` or `sentence` in the answer voice, or what a caller says."""

    kind: Kind
    text: str
    voice: Voice = ANSWER_VOICE


@dataclass(frozen=True, kw_only=True)
class CorpusPlan:
    """How much of what a corpus holds."""

    answer_voice_sentences: int = 420
    renderings_per_question: int = 100
    unknown: int = 2600
    seed: int = 20

    def items(self, phrases: Phrases) -> list[Item]:
        """What training reads: answers first, then answer-voice sentences, then callers."""
        rng = np.random.default_rng(self.seed)
        sentences = unknown_sentences(self.answer_voice_sentences, self.seed + 1)
        sentences += [exchange.question for exchange in phrases.exchanges]
        unknown = [
            Item(kind="unknown", text=text, voice=TRAINING_VOICES.draw(rng))
            for text in unknown_sentences(self.unknown, self.seed + 2)
        ]
        questions = question_items(phrases.exchanges, self.renderings_per_question, TRAINING_VOICES, rng)
        callers = [*questions, *unknown]
        order = rng.permutation(len(callers))
        return [
            *(Item(kind="answer", text=text) for text in phrases.spoken),
            *(Item(kind="sentence", text=text) for text in sentences),
            *(callers[int(i)] for i in order),
        ]


@dataclass(frozen=True, kw_only=True)
class HeldOutPlan:
    """What measuring reads: held-out voice settings and sentences, and the answers to compare with."""

    renderings_per_question: int = 24
    renderings_per_sentence: int = 4
    voices: VoiceGrid = HELD_OUT_VOICES
    seed: int = 77

    def items(self, phrases: Phrases) -> list[Item]:
        """The answers, then every question and every held-out sentence in several voices."""
        rng = np.random.default_rng(self.seed)
        unknown = [
            Item(kind="unknown", text=text, voice=self.voices.draw(rng))
            for text in HELD_OUT_SENTENCES * self.renderings_per_sentence
        ]
        questions = question_items(phrases.exchanges, self.renderings_per_question, self.voices, rng)
        return [*(Item(kind="answer", text=text) for text in phrases.spoken), *questions, *unknown]


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Where an utterance lies in its shard, and what it says.

    `loud_start` and `loud_end` are the first and last sample of the speech itself (above -40 dBFS at the
    nominal level), counted from the utterance's start. `words` is empty except for answers.
    """

    item: Item
    shard: int
    start: int
    length: int
    loud_start: int
    loud_end: int
    words: tuple[SpokenWord, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """The utterances of a folder. Reading one copies it out of the memory-mapped shard."""

    utterances: tuple[Utterance, ...]
    shards: dict[int, NDArray[np.int16]] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """The shards that are whole. Raises ConfigError when there are none."""
        utterances: list[Utterance] = []
        shards: dict[int, NDArray[np.int16]] = {}
        for index_path in sorted(folder.glob("shard_*.json")):
            number = int(index_path.stem.split("_")[1])
            shards[number] = np.load(index_path.with_suffix(".npy"), mmap_mode="r")
            rows = cast("list[dict[str, object]]", json.loads(index_path.read_text())["utterances"])
            utterances += [_utterance_from_json(row, number) for row in rows]
        if not utterances:
            raise ConfigError(f"no corpus in {folder}; build it with build_corpus first")
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
    exchanges: Sequence[Exchange], renderings: int, voices: VoiceGrid, rng: np.random.Generator
) -> list[Item]:
    """Each question in several voices; its final mark varies, since the engines' melody follows it."""
    items: list[Item] = []
    for exchange in exchanges:
        for _ in range(renderings):
            marks = (exchange.question[-1], exchange.question[-1], ".", "?")
            text = exchange.question[:-1] + marks[int(rng.integers(len(marks)))]
            items.append(Item(kind="question", text=text, voice=voices.draw(rng)))
    return items


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
    for item in items:
        audio, words = _spoken(item)
        pieces.append(np.round(audio * FULL_SCALE).astype(np.int16))
        first, last = loud_span(audio)
        place = {"start": start, "length": len(audio), "loud_start": first, "loud_end": last}
        rows.append({"item": asdict(item), **place, "words": [asdict(word) for word in words]})
        start += len(audio)
    # Moved into place, never written over: a process that has the old shard mapped keeps it.
    unfinished = folder / f"unfinished_{number:03d}.npy"
    np.save(unfinished, np.concatenate(pieces))
    os.replace(unfinished, index_path.with_suffix(".npy"))
    unfinished.write_text(json.dumps({"fingerprint": _fingerprint(items), "utterances": rows}))
    os.replace(unfinished, index_path)


def _spoken(item: Item) -> tuple[Audio, tuple[SpokenWord, ...]]:
    if item.kind == "answer":
        spoken = synthesise_answer(item.text)
        return spoken.audio, spoken.words
    return synthesise(item.text, item.voice), ()


def _utterance_from_json(row: dict[str, object], shard: int) -> Utterance:
    fields = cast("dict[str, int]", {key: row[key] for key in ("start", "length", "loud_start", "loud_end")})
    item = cast("dict[str, object]", row["item"])
    voice = Voice(**cast("dict[str, Any]", item["voice"]))
    words = tuple(SpokenWord(**word) for word in cast("list[dict[str, Any]]", row["words"]))
    spoken = Item(kind=cast("Kind", item["kind"]), text=cast("str", item["text"]), voice=voice)
    return Utterance(item=spoken, shard=shard, words=words, **fields)
