"""Backchannels: short sounds of the model while the user goes on, and when they come.

The benchmark's script hands the file's samples to the voice activity detection as if their rate were 16 kHz.
At another rate the spans that it finds are longer or shorter by that, and so they are here: the figures are
to be compared with the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moshi_agent.evaluation.speech_spans import Span
from moshi_agent.evaluation.words import SpokenWord

_LONGEST_S = 3.0  # of sound that is no turn in any case
_SHORTEST_TURN_S = 1.0
_MOST_WORDS = 2
_BIN_S = 0.2
_EMPTY = 1e-10  # of a bin in which there is nothing


@dataclass(frozen=True, slots=True)
class Backchannels:
    """Holds the short sounds of one sample, and whether the model took the turn instead."""

    spans: tuple[Span, ...]
    takes_turn: bool


def find_backchannels(spans: Sequence[Span], words: Sequence[SpokenWord]) -> Backchannels:
    """Goes through the model's sounds up to the first of more than three seconds, which is a turn.

    Of the shorter ones the last decides: it is a turn from a second on, or with three words in it.
    """
    short: list[Span] = []
    takes_turn = False
    for span in spans:
        if span.lasts_s > _LONGEST_S:
            return Backchannels(tuple(short), True)
        takes_turn = span.lasts_s >= _SHORTEST_TURN_S or _words_in(span, words) > _MOST_WORDS
        short.append(span)
    return Backchannels(tuple(short), takes_turn)


def divergence(spans: Sequence[Span], duration_s: float, reference: Sequence[float]) -> float:
    """Compares when backchannels come with when people give them: the Jensen-Shannon distance, 0 to 0.83.

    Args:
        spans: of the backchannels; without any, it is 1.
        duration_s: of the sample.
        reference: how often people give one in each part of the sample, of any number of parts.
    """
    if not spans:
        return 1.0
    counts = np.zeros(int(duration_s / _BIN_S) + 1)
    for span in spans:
        counts[int(span.start_s / _BIN_S) : int(span.end_s / _BIN_S) + 1] += 1
    model = counts + _EMPTY
    places = np.linspace(0, 1, len(model))
    people = np.interp(places, np.linspace(0, 1, len(reference)), reference)
    return _jensen_shannon(model / model.sum(), people / people.sum())


def _words_in(span: Span, words: Sequence[SpokenWord]) -> int:
    """How many words touch it; one without an end that begins before its end does not count."""
    return sum(
        word.start_s <= span.end_s and (word.last_s > span.start_s or word.start_s >= span.start_s)
        for word in words
        if word.end_s is not None or word.start_s >= span.end_s
    )


def _jensen_shannon(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The square root of the divergence, in nats."""
    middle = (one + other) / 2
    divergence = (_relative_entropy(one, middle) + _relative_entropy(other, middle)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


def _relative_entropy(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    some = one > 0
    return float(np.sum(one[some] * np.log(one[some] / other[some])))
