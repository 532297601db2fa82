"""Shows the figures of an evaluation as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from moshi_agent.training.tiny.evaluation.scoring import AnswerScore, CallScore, InterruptionScore

ANSWER_WITHIN_S = 1.0
STOP_WITHIN_S = 0.5
ALL = "all"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Share:
    """Counts `good` out of `count`."""

    good: int
    count: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Share:
        """Counts how many are true."""
        listed = list(outcomes)
        return cls(good=sum(listed), count=len(listed))

    def __str__(self) -> str:
        if not self.count:
            return "-"
        return f"{100 * self.good / self.count:.1f} % ({self.good}/{self.count})"


Columns = dict[str, Share]  # by condition, `ALL` last


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Holds one figure in every condition, and what is wanted of it."""

    name: str
    wanted: str
    shares: Columns


def measures(calls: Sequence[CallScore]) -> list[Measure]:
    """Computes the figures of the calls."""
    known = _by_answers(calls, lambda score: score.question is not None and score.known)
    unknown = _by_answers(calls, lambda score: score.question is not None and not score.known)
    answered = _by_answers(calls, lambda score: score.question is not None)
    begun = _by_answers(calls, lambda score: score.on_track)
    burst = {name: [score for score in scores if score.burst] for name, scores in begun.items()}
    calm = {name: [score for score in scores if not score.burst] for name, scores in begun.items()}
    stops = {name: [one for call in some for one in call.interruptions] for name, some in _grouped(calls)}
    openings = _by_answers(calls, lambda score: score.question is None)
    unasked = {name: [call for call in some if not call.greeting_asked] for name, some in _grouped(calls)}
    quiet = {name: _quiet(some) for name, some in _grouped(calls)}
    return [
        _measure("known question: right text", ">= 95 %", known, lambda score: score.text_right),
        _measure("known question: right sound", ">= 95 %", known, lambda score: score.audio_right),
        _measure(
            "unknown sentence: default answer (text)", ">= 90 %", unknown, lambda score: score.text_right
        ),
        _measure("unknown sentence: default answer (sound)", "", unknown, lambda score: score.audio_right),
        _measure("answer begins within 1 s", "", answered, in_time),
        Measure(name="quiet frames under -55 dBFS", wanted=">= 98 %", shares=quiet),
        _measure("interrupted: silent within 500 ms", ">= 95 %", stops, _stopped_in_time),
        _measure("broken off at a short noise", "< 5 %", burst, lambda score: score.broken_off),
        _measure("broken off otherwise (lasting noise, echo)", "< 5 %", calm, lambda score: score.broken_off),
        _measure("greets when asked to", "", openings, _greets),
        _measure("waits when not asked to greet", "", unasked, lambda call: not call.spoke_first),
    ]


def summary(calls: Sequence[CallScore]) -> str:
    """Tells how much was played."""
    asked = [[one for one in call.answers if one.question is not None] for call in calls]
    known = sum(one.known for answers in asked for one in answers)
    unknown = sum(map(len, asked)) - known
    interruptions = sum(len(call.interruptions) for call in calls)
    fewest = min((len(answers) + len(call.interruptions) for answers, call in zip(asked, calls, strict=True)))
    return (
        f"{len(calls)} calls with {known} known questions, {unknown} unknown sentences and {interruptions} "
        f"interruptions, at least {fewest} of them in each call"
    )


def table(rows: Sequence[Measure]) -> str:
    """Writes Markdown: a row for each figure, a column for each condition."""
    names = list(rows[0].shares)
    lines = ["| | wanted | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    for row in rows:
        cells = [row.name, row.wanted, *(str(row.shares[name]) for name in names)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def timing(calls: Sequence[CallScore]) -> str:
    """Writes medians and tails of the delays, in one line each."""
    delays = [
        one.delay_s for call in calls for one in call.answers if one.question and one.delay_s is not None
    ]
    stops = [one.stop_s for call in calls for one in call.interruptions]
    return "\n".join(
        f"{name}: median {np.median(values):.2f} s, 95th percentile {np.percentile(values, 95):.2f} s"
        for name, values in (
            ("answer after the question's end", delays),
            ("stop after an interruption", stops),
        )
        if values
    )


def in_time(score: AnswerScore) -> bool:
    """Tells whether the answer began after the question, and within a second."""
    return score.delay_s is not None and 0 < score.delay_s <= ANSWER_WITHIN_S


def _stopped_in_time(score: InterruptionScore) -> bool:
    return score.stop_s <= STOP_WITHIN_S


def _greets(opening: AnswerScore) -> bool:
    return opening.text_right and opening.audio_right


def _quiet(calls: Sequence[CallScore]) -> Share:
    return Share(good=sum(call.quiet_kept for call in calls), count=sum(call.quiet_frames for call in calls))


def _grouped(calls: Sequence[CallScore]) -> list[tuple[str, list[CallScore]]]:
    names = dict.fromkeys(call.condition for call in calls)
    groups = [(name, [call for call in calls if call.condition == name]) for name in names]
    return [*groups, (ALL, list(calls))]


def _by_answers(
    calls: Sequence[CallScore], wanted: Callable[[AnswerScore], bool]
) -> dict[str, list[AnswerScore]]:
    return {
        name: [one for call in some for one in call.answers if wanted(one)] for name, some in _grouped(calls)
    }


def _measure(name: str, wanted: str, groups: dict[str, list[T]], good: Callable[[T], bool]) -> Measure:
    return Measure(
        name=name, wanted=wanted, shares={key: Share.of(map(good, some)) for key, some in groups.items()}
    )
