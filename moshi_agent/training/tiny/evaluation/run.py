"""The whole evaluation: which calls are played, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from sentencepiece import SentencePieceProcessor

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.evaluation.bot import ModelBot
from moshi_agent.training.tiny.evaluation.caller import Caller, CallPlan
from moshi_agent.training.tiny.evaluation.ear import Spoken, spoken_answers
from moshi_agent.training.tiny.evaluation.line import CONDITIONS, Condition
from moshi_agent.training.tiny.evaluation.material import Deck, Material
from moshi_agent.training.tiny.evaluation.play import Recording, play
from moshi_agent.training.tiny.evaluation.scoring import CallJudge, CallScore
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How many calls of which kinds."""

    conditions: Sequence[Condition] = CONDITIONS
    calls: int = 5  # of each condition, in which answers are listened to
    interrupting_calls: int = 2  # of each condition
    seconds: float = 180.0  # of a call
    rows: int = 35  # calls at once
    greedy: bool = False
    seed: int = 1

    @property
    def frames(self) -> int:
        """The length of a call."""
        return int(self.seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES)


def call_plans(settings: Settings) -> list[CallPlan]:
    """All calls, the conditions in turn; in every other one the bot is asked to greet."""
    plans: list[CallPlan] = []
    for number in range(settings.calls + settings.interrupting_calls):
        for index, condition in enumerate(settings.conditions):
            plans.append(
                CallPlan(
                    condition=condition,
                    greet=(number + index) % 2 == 0,
                    interrupting=number >= settings.calls,
                    seed=1000 * settings.seed + len(plans),
                )
            )
    return plans


def evaluate(
    checkpoint: Checkpoint,
    material: Material,
    settings: Settings,
    recordings: Path | None = None,
    heard: list[Spoken] | None = None,
) -> list[CallScore]:
    """Plays the calls and scores each.

    Args:
        recordings: a folder for stereo files of all calls, the caller on the left.
        heard: where what the bot answers is added, for an ear.

    Raises:
        ConfigError: a checkpoint without a tokenizer or a language model.
    """
    tokenizer = tokenizer_of(checkpoint)
    judge = CallJudge(material, tokenizer)
    rng = np.random.default_rng(settings.seed)
    known, unknown = Deck(material.questions, rng), Deck(material.unknown, rng)
    plans = call_plans(settings)
    teacher = {answer.text: answer.audio for answer in material.answers}
    scores: list[CallScore] = []
    for first in range(0, len(plans), settings.rows):
        group = plans[first : first + settings.rows]
        callers = [Caller(plan, material, known, unknown, settings.frames) for plan in group]
        greets = [plan.greet for plan in group]
        bot = ModelBot(checkpoint, greets, greedy=settings.greedy, seed=settings.seed + first)
        for number, call in enumerate(
            play(bot, callers, settings.frames, keep_user=recordings is not None), first + 1
        ):
            scores.append(judge.judge(call))
            if heard is not None:
                heard += spoken_answers(call, scores[-1], teacher)
            if recordings is not None:
                write_recording(recordings, number, call)
    return scores


def tokenizer_of(checkpoint: Checkpoint) -> SentencePieceProcessor:
    """The checkpoint's tokenizer. Raises ConfigError without one."""
    if checkpoint.tokenizer is None:
        raise ConfigError(f"{checkpoint.name} has no tokenizer; accepted: a checkpoint with one")
    return checkpoint.tokenizer


def write_recording(folder: Path, number: int, call: Recording) -> None:
    """The caller's channel left, the bot's right, as they stand in the recording."""
    assert call.user is not None
    folder.mkdir(parents=True, exist_ok=True)
    kind = "interrupting" if call.plan.interrupting else "listening"
    name = f"{number:02}-{call.plan.condition.name.split(',')[0]}-{kind}.flac"
    sf.write(folder / name, np.stack([call.user, np.clip(call.bot, -1, 1)], axis=1), SAMPLE_RATE_HZ)
