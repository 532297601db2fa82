"""Which stretch of an utterance each of its written words is, from the times of its phones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.piper_voice import SILENT_PHONES, Phone


@dataclass(frozen=True, kw_only=True)
class SpokenWord:
    """A word as written, with its place in the utterance, in seconds from the first sample."""

    word: str
    start: float
    end: float


def word_times(
    text: str, phones: Sequence[Phone], word_lengths: Sequence[int], length_s: float
) -> tuple[SpokenWord, ...]:
    """The times of the words of `text`, words being what whitespace parts.

    The phones come in groups between spaces; a speaker runs some words together ("of the"), so that a group
    is one word or several. Which, follows from `word_lengths`, the phones of each word alone; the words of a
    group share its time by them.

    Raises:
        ConfigError: there are more groups than words, as where a number is written in digits.
    """
    words, groups = text.split(), _groups(phones)
    if not groups or len(groups) > len(words):
        raise ConfigError(f"cannot tell the words of {text!r} apart; write numbers and signs as plain words")
    times: list[SpokenWord] = []
    first = 0
    for group, count in zip(groups, _shares([one.phones for one in groups], word_lengths), strict=True):
        lengths = [max(length, 1) for length in word_lengths[first : first + count]]
        at, pace = group.start, (group.end - group.start) / sum(lengths)
        for word, length in zip(words[first : first + count], lengths, strict=True):
            start, at = at, at + pace * length
            times.append(SpokenWord(word=word, start=min(max(start, 0.0), length_s), end=min(at, length_s)))
        first += count
    return tuple(times)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Phones without a space between them."""

    phones: int
    start: float
    end: float


def _groups(phones: Sequence[Phone]) -> list[_Group]:
    groups: list[_Group] = []
    count, start, end, before = 0, 0.0, 0.0, 0.0
    for phone in phones:
        if phone.name in " ^$" and count:
            groups.append(_Group(phones=count, start=start, end=end))
            count = 0
        elif phone.name not in SILENT_PHONES:
            start, end = (before, phone.end) if not count else (start, phone.end)
            count += 1
        elif count and phone.name in "ˈˌː":
            end = phone.end
        before = phone.end
    return [*groups, _Group(phones=count, start=start, end=end)] if count else groups


def _shares(groups: Sequence[int], words: Sequence[int]) -> list[int]:
    """How many words each group is, so that its phones are as many as theirs as nearly as can be."""
    # best[w]: the least difference so far with w words given away, and how many each group got
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for number, size in enumerate(groups):
        room = len(words) - (len(groups) - number - 1)
        grown: dict[int, tuple[int, list[int]]] = {}
        for given, (cost, counts) in best.items():
            for upto in range(given + 1, room + 1):
                total = cost + abs(size - sum(words[given:upto]))
                if upto not in grown or total < grown[upto][0]:
                    grown[upto] = (total, [*counts, upto - given])
        best = grown
    return best[len(words)][1]
