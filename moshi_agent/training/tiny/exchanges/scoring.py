"""Counts how many new questions a model answers, and how many of those that it knew before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moshi_agent.training.tiny.evaluation.line import Condition
from moshi_agent.training.tiny.evaluation.report import Share
from moshi_agent.training.tiny.evaluation.run import Settings
from moshi_agent.training.tiny.evaluation.scoring import LENGTH_RANGE, AnswerScore, CallScore
from moshi_agent.training.tiny.phrases import Exchange, plain

CLEAN = (Condition(name="clean"),)
# Some two hundred questions.
SETTINGS = Settings(conditions=CLEAN, calls=14, interrupting_calls=0, seconds=120.0)


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """Says how questions of one kind were answered. `right` are those whose text and sound are right."""

    name: str
    text: Share
    sound: Share
    right: Share


def group_scores(calls: Sequence[CallScore], new: Sequence[Exchange]) -> list[GroupScore]:
    """Scores the new questions, the old ones, and what the model does not know."""
    asked = {plain(exchange.question) for exchange in new}
    groups: dict[str, list[AnswerScore]] = {"new questions": [], "old questions": [], "unknown sentences": []}
    for one in (answer for call in calls for answer in call.answers):
        if one.question is None:
            continue
        is_new = plain(one.question) in asked
        name = "new questions" if is_new else "old questions" if one.known else "unknown sentences"
        groups[name].append(one)
    return [
        GroupScore(
            name=name,
            text=Share.of(one.text_right for one in answers),
            sound=Share.of(map(_sounds_right, answers)),
            right=Share.of(one.text_right and _sounds_right(one) for one in answers),
        )
        for name, answers in groups.items()
    ]


def score_table(scores: Sequence[GroupScore]) -> str:
    """Writes a line for each group."""
    rows = [("", "right", "right text", "right sound")]
    rows += [(one.name, str(one.right), str(one.text), str(one.sound)) for one in scores]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _sounds_right(one: AnswerScore) -> bool:
    """As `audio_right`, also where two questions have the same answer."""
    return one.heard == one.expected and LENGTH_RANGE[0] <= one.sound_share <= LENGTH_RANGE[1]
