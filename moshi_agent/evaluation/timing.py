"""How long both speak at once before the model stops, and how long its reply takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moshi_agent.evaluation.speech_spans import Span

# Pauses up to these are inside of a turn.
USER_PAUSE_S = 0.6
MODEL_PAUSE_S = 0.5


def joined(spans: Iterable[Span], longest_pause_s: float) -> list[Span]:
    """Joins spans with no more than such a pause between them."""
    whole: list[Span] = []
    for span in sorted(spans):
        if whole and span.start_s - whole[-1].end_s <= longest_pause_s:
            whole[-1] = Span(whole[-1].start_s, max(whole[-1].end_s, span.end_s))
        else:
            whole.append(span)
    return whole


def overlaps(user: Sequence[Span], model: Sequence[Span]) -> list[Span]:
    """Finds where both speak, in order of the ends, to the millisecond: how long the model takes to stop.

    Of those that end in the same millisecond the shortest counts.
    """
    shortest: dict[int, Span] = {}
    for one in user:
        for other in model:
            both = Span(max(one.start_s, other.start_s), min(one.end_s, other.end_s))
            end_ms = round(both.end_s * 1000)
            known = shortest.get(end_ms)
            if both.end_s > both.start_s and (known is None or both.lasts_s < known.lasts_s):
                shortest[end_ms] = both
    return [_to_ms(span) for span in sorted(shortest.values(), key=lambda span: span.end_s)]


def response_gaps(user: Sequence[Span], model: Sequence[Span]) -> list[Span]:
    """Finds what passes from an end of the user's to the next beginning of the model's, to the millisecond.

    Of several ends with the same beginning after them the last counts.
    """
    gaps: dict[int, Span] = {}
    for turn in sorted(user):
        begins_s = next((span.start_s for span in model if span.start_s > turn.end_s), None)
        if begins_s is not None:
            gaps[round(begins_s * 1000)] = Span(turn.end_s, begins_s)
    return [_to_ms(gap) for _, gap in sorted(gaps.items())]


def _to_ms(span: Span) -> Span:
    return Span(round(span.start_s, 3), round(span.end_s, 3))
