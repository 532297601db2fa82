"""Makes all that a fine-tuning on new exchanges needs in one folder, and measures what it gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import sentencepiece

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.errors import DataError
from moshi_agent.outputs import whole_file
from moshi_agent.training.tiny.conversations import ConversationSampler
from moshi_agent.training.tiny.corpus import Corpus, build_corpus
from moshi_agent.training.tiny.evaluation.material import Material
from moshi_agent.training.tiny.evaluation.run import Settings, evaluate, tokenizer_of
from moshi_agent.training.tiny.evaluation.scoring import CallScore
from moshi_agent.training.tiny.exchanges.calls import MIX, CallPlan, asking_more, write_calls
from moshi_agent.training.tiny.exchanges.scoring import SETTINGS
from moshi_agent.training.tiny.exchanges.speech import SpeechPlan, held_out_items
from moshi_agent.training.tiny.exchanges.text_file import extended
from moshi_agent.training.tiny.phrases import Exchange, Phrases, load_phrases

LESSON_FILE = "lesson.json"


@dataclass(frozen=True, kw_only=True)
class LessonPlan:
    """Says what is made for new exchanges. The old ones come with them, so that they are not forgotten."""

    speech: SpeechPlan = field(default_factory=SpeechPlan)
    calls: CallPlan = field(default_factory=CallPlan)
    repeats: int = 3  # a new question is asked as often as so many old ones


def write_lesson(
    folder: Path,
    new: tuple[Exchange, ...],
    tokenizer: sentencepiece.SentencePieceProcessor,
    plan: LessonPlan | None = None,
) -> Path:
    """Synthesises the speech, makes calls of it and writes them; returns their manifest.

    Where it was stopped, it goes on.

    Args:
        tokenizer: of the model that is to be trained, `tiny` or one that came from it.

    Raises:
        ConfigError: `flite` or Piper is not installed, or cannot tell the words of an answer apart.
        DataError: an exchange that the model has already, or cannot write; or a folder with another lesson.
        OutputError: the folder cannot be written to.
    """
    plan, old = plan or LessonPlan(), load_phrases()
    phrases = extended(old, new, tokenizer)
    _take(folder, {"exchanges": [asdict(exchange) for exchange in new], "plan": asdict(plan)})
    build_corpus(folder / "speech", plan.speech.items(old, new))
    sampler = ConversationSampler.make(Corpus.open(folder / "speech"), phrases, tokenizer, mix=MIX)
    return write_calls(folder, asking_more(sampler, len(new), plan.repeats), plan.calls)


def measure(
    checkpoint: Checkpoint,
    folder: Path,
    new: Sequence[Exchange],
    *,
    renderings: int = 8,
    settings: Settings = SETTINGS,
) -> list[CallScore]:
    """Plays calls with held-out voices, which are made in `folder`, and scores them.

    Raises:
        ConfigError: as `write_lesson`, or a checkpoint that cannot converse.
    """
    tokenizer = tokenizer_of(checkpoint)
    phrases: Phrases = extended(load_phrases(), tuple(new), tokenizer)
    build_corpus(folder / "held_out", held_out_items(phrases, renderings))
    material = Material.make(Corpus.open(folder / "held_out"), phrases, tokenizer, settings.seed)
    return evaluate(checkpoint, _asked_twice(material, len(new)), settings)


def _take(folder: Path, content: dict[str, Any]) -> None:
    """Marks the folder as that of a lesson with this content. Raises DataError if it is another's."""
    path, text = folder / LESSON_FILE, json.dumps(content, indent=1)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise DataError(f"{folder} was made for other exchanges or another plan; take a new folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _asked_twice(material: Material, new: int) -> Material:
    """Each new question comes up twice as often as an old one, each time in another rendering."""
    pools = material.questions
    halves = [pool[half::2] for pool in pools[-new:] for half in (0, 1)]
    return replace(material, questions=[*pools[:-new], *halves])
