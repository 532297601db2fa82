"""The speech for new exchanges: they and the old ones asked in many voices, answered in the model's own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np

from moshi_agent.training.tiny.corpus import HeldOutPlan, Item, question_items
from moshi_agent.training.tiny.phrases import Exchange, Phrases, plain
from moshi_agent.training.tiny.sentences import unknown_sentences
from moshi_agent.training.tiny.voices import HELD_OUT_VOICES, TRAINING_VOICES, VoiceGrid


@dataclass(frozen=True, kw_only=True)
class SpeechPlan:
    """How often what is rendered for training, each time in a voice of its own."""

    new_renderings: int = 60  # of each new question
    old_renderings: int = 24  # of each question that the model knows
    unknown: int = 700  # sentences that it does not know
    seed: int = 51

    def items(self, old: Phrases, new: tuple[Exchange, ...]) -> list[Item]:
        """The answers first, then the callers in random order."""
        rng = np.random.default_rng(self.seed)
        voices = installed(TRAINING_VOICES)
        asked = {plain(exchange.question) for exchange in new}
        callers = [
            *question_items(new, self.new_renderings, voices, rng),
            *question_items(old.exchanges, self.old_renderings, voices, rng),
            *(
                Item(kind="unknown", text=text, voice=voices.draw(rng))
                for text in unknown_sentences(self.unknown, self.seed + 1)
                if plain(text) not in asked
            ),
        ]
        answers = [exchange.answer for exchange in new]
        return [
            *(Item(kind="answer", text=text) for text in dict.fromkeys((*old.spoken, *answers))),
            *(callers[int(i)] for i in rng.permutation(len(callers))),
        ]


def held_out_items(phrases: Phrases, renderings: int) -> list[Item]:
    """Every question and every sentence to measure with, in voices that no training has."""
    plan = HeldOutPlan(
        renderings_per_question=renderings,
        renderings_per_sentence=1,
        renderings_per_lookup=0,
        found=0,
        said=0,
        voices=installed(HELD_OUT_VOICES),
    )
    return plan.items(phrases)


def installed(voices: VoiceGrid) -> VoiceGrid:
    """The voices of the grid whose engine there is: those of flite alone where espeak-ng is missing."""
    if not shutil.which("espeak-ng"):
        return replace(voices, flite_share=1.0)
    if not shutil.which("text2wave"):
        others = tuple(voice for voice in voices.others if voice.engine != "festival")
        return replace(voices, others=others)
    return voices
