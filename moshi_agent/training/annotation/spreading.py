"""Times words of which only the text is known: spreads them over the speech, each by its length.

Within a stretch of speech a word is a few tenths of a second off; only at the beginning of a stretch is it
exact. A recogniser's times are better.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from moshi_agent.training.annotation.placed_word import PlacedWord
from moshi_agent.training.annotation.speech_spans import Span
from moshi_agent.training.annotation.transcripts import Cue

_PAUSE_LETTERS = 2  # what a word takes beside its letters


def spread_cues(cues: Sequence[Cue], spans: Sequence[Span]) -> list[PlacedWord]:
    """Spreads words of a transcript in order, over the speech of the side that says them.

    A cue with times has the speech between them; if there is none, somebody else says it, and it is left out.
    Lines without times are taken for one turn each: the longest pauses part them. Where there are fewer
    stretches of speech than lines, all words share all of the speech.
    """
    timed = [cue for cue in cues if cue.start_s is not None and cue.end_s is not None]
    words = [word for cue in timed for word in spread(cue.text.split(), _within(spans, cue))]
    lines = [cue.text.split() for cue in cues if cue.start_s is None]
    if len(lines) > len(spans):
        lines = [[word for line in lines for word in line]]
    if lines and spans:
        turns = _turns(spans, len(lines))
        words += [word for line, turn in zip(lines, turns, strict=True) for word in spread(line, turn)]
    return sorted(words, key=lambda word: word.start_s)


def spread(words: Sequence[str], spans: Sequence[Span]) -> list[PlacedWord]:
    """Spreads words over stretches of speech: each word is whole in one, and each stretch is filled."""
    ends = list(accumulate(len(word) + _PAUSE_LETTERS for word in words))
    lengths = [span.end_s - span.start_s for span in spans]
    if not ends or not sum(lengths) > 0:
        return []
    limits = [upto / sum(lengths) for upto in accumulate(lengths)]
    shares: list[list[str]] = [[] for _ in spans]
    for word, end in zip(words, ends, strict=True):
        middle = (end - (len(word) + _PAUSE_LETTERS) / 2) / ends[-1]
        shares[next((i for i, limit in enumerate(limits) if middle <= limit), -1)].append(word)
    return [word for share, span in zip(shares, spans, strict=True) for word in _fill(share, span)]


def _fill(words: Sequence[str], span: Span) -> list[PlacedWord]:
    ends = list(accumulate((len(word) + _PAUSE_LETTERS for word in words), initial=0))
    scale = (span.end_s - span.start_s) / max(ends[-1], 1)
    times = pairwise(span.start_s + end * scale for end in ends)
    return [PlacedWord(word, start, end) for word, (start, end) in zip(words, times, strict=True)]


def _within(spans: Sequence[Span], cue: Cue) -> list[Span]:
    assert cue.start_s is not None and cue.end_s is not None
    cut = [Span(max(span.start_s, cue.start_s), min(span.end_s, cue.end_s)) for span in spans]
    return [span for span in cut if span.end_s > span.start_s]


def _turns(spans: Sequence[Span], count: int) -> list[list[Span]]:
    """The spans in `count` groups, parted at the longest pauses. `count` is at most the number of spans."""
    pauses = [after.start_s - before.end_s for before, after in pairwise(spans)]
    longest = sorted(range(len(pauses)), key=lambda index: -pauses[index])[: count - 1]
    cuts = [0, *sorted(index + 1 for index in longest), len(spans)]
    return [list(spans[first:last]) for first, last in pairwise(cuts)]
