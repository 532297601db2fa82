"""The measures of all samples of a folder, one result for each data set in it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from moshi_agent.evaluation import measures
from moshi_agent.evaluation.judge import BEHAVIORS
from moshi_agent.evaluation.measures import Measurer, Values
from moshi_agent.evaluation.samples import Sample, Task
from moshi_agent.evaluation.words import WordSource, words_path

Better = Literal["higher", "lower", ""]

# What is good in one task is bad in another.
_MEASURES: dict[Task, dict[str, Better]] = {
    "pause_handling": {measures.TAKE_OVER: "lower"},
    "backchannel": {
        measures.TAKE_OVER: "lower",
        measures.FREQUENCY: "higher",
        measures.DIVERGENCE: "lower",
    },
    "smooth_turn_taking": {measures.TAKE_OVER: "higher", measures.LATENCY: "lower"},
    "user_interruption": {
        measures.TAKE_OVER: "higher",
        measures.RATING: "higher",
        measures.LATENCY: "lower",
    },
    "overlap": {
        measures.STOP: "lower",
        measures.RESPONSE: "lower",
        **dict[str, Better].fromkeys(BEHAVIORS, ""),
    },
    "call": {measures.STOP: "lower", measures.RESPONSE: "lower"},
}
_UNITS = {
    measures.LATENCY: "s",
    measures.STOP: "s",
    measures.RESPONSE: "s",
    measures.FREQUENCY: "1/s",
    measures.RATING: "of 5",
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Holds the mean of a measure."""

    name: str
    mean: float
    count: int  # of the values that it is the mean of
    unit: str
    better: Better

    def __str__(self) -> str:
        return f"{self.name} {self.mean:.3f}{' ' + self.unit if self.unit else ''}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """Holds the measures of one data set, by one source of words, or by the sound alone."""

    data_set: str
    task: Task
    words: WordSource | None
    samples: list[Sample] = field(repr=False)
    values: list[Values] = field(repr=False)  # of each sample

    @property
    def figures(self) -> list[Figure]:
        """Returns the mean of each measure that has any values."""
        return [
            Figure(
                name=name,
                mean=statistics.fmean(values),
                count=len(values),
                unit=_UNITS.get(name, ""),
                better=better,
            )
            for name, better in _MEASURES[self.task].items()
            if (values := [value for one in self.values for value in one.get(name, ())])
        ]

    def as_json(self) -> dict[str, Any]:
        """Returns the figures, and the values of each sample by the name of its folder."""
        return {
            "data_set": self.data_set,
            "task": self.task,
            "words": self.words,
            "samples": len(self.samples),
            "figures": {figure.name: figure.mean for figure in self.figures},
            "values": {
                sample.folder.name: one for sample, one in zip(self.samples, self.values, strict=True)
            },
        }


def measure(
    samples: Sequence[Sample], measurer: Measurer, *, told: Callable[[], object] = lambda: None
) -> list[Result]:
    """Measures samples with their outputs, by every source of words that there is.

    Args:
        told: called after each sample and source.

    Raises:
        AudioError, ConfigError, DataError: as `Measurer.of_words`.
    """
    results: list[Result] = []
    for (data_set, task), group in groupby(samples, key=lambda sample: (sample.data_set, sample.task)):
        those = list(group)
        for source in (None, *_sources(those)):
            values: list[Values] = []
            for sample in those:
                one = measurer.of_sound(sample) if source is None else measurer.of_words(sample, source)
                values.append(one)
                told()
            result = Result(data_set=data_set.name, task=task, words=source, samples=those, values=values)
            if result.figures:
                results.append(result)
    return results


def left_out(samples: Sequence[Sample], measurer: Measurer) -> list[str]:
    """Says what of the benchmark's measures is not computed, and what it needs."""
    tasks = {sample.task for sample in samples}
    lines: list[str] = []
    if measurer.judge is None and "user_interruption" in tasks:
        lines.append("the rating of replies to interruptions needs a judge")
    if "overlap" in tasks:
        if measurer.judge is None:
            lines.append("the behavior after overlaps needs a judge")
        elif "recogniser" not in _sources([one for one in samples if one.task == "overlap"]):
            lines.append("the behavior after overlaps needs a recogniser")
        lines.append("UTMOSv2, a network that predicts opinions of speech, is not computed")
    if measurer.reference is None and "backchannel" in tasks:
        lines.append("the divergence of backchannels needs the benchmark's icc_gt_distribution.json")
    return lines


def _sources(samples: Sequence[Sample]) -> list[WordSource]:
    """Those with words of every sample, at least of one."""
    sources: tuple[WordSource, ...] = ("monologue", "recogniser")
    return [
        source
        for source in sources
        if samples and all(words_path(sample.folder, "output", source).exists() for sample in samples)
    ]
