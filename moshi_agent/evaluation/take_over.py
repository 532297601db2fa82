"""Whether the model takes the turn, and how soon, by its words."""

from __future__ import annotations

from collections.abc import Sequence

from moshi_agent.evaluation.words import SpokenWord

# Fewer words in less time are a backchannel, and no turn.
_SHORTEST_TURN_S = 1.0
_MOST_WORDS = 3


def takes_turn(words: Sequence[SpokenWord]) -> bool:
    """Tells whether words of the model, in order, make a turn: a second of them, or more than three."""
    if not words:
        return False
    lasts_s = words[-1].last_s - words[0].start_s
    return lasts_s >= _SHORTEST_TURN_S or len(words) > _MOST_WORDS


def latency_s(words: Sequence[SpokenWord], user_end_s: float) -> float | None:
    """Returns how long after the user's end the turn begins, 0 where it began before; None without a turn."""
    return max(0.0, words[0].start_s - user_end_s) if takes_turn(words) else None


def words_after(words: Sequence[SpokenWord], start_s: float) -> list[SpokenWord]:
    """Selects the words that begin at `start_s` or later."""
    return [word for word in words if word.start_s >= start_s]
