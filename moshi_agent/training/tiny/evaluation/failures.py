"""Lists what went wrong in an evaluation, for those who train the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from moshi_agent.training.tiny.evaluation.report import Share, in_time
from moshi_agent.training.tiny.evaluation.scoring import AnswerScore, CallScore
from moshi_agent.training.tiny.phrases import Phrases, plain

SHOWN = 90  # characters of what was said


def wrong_texts(calls: Sequence[CallScore], phrases: Phrases) -> str:
    """Counts how many texts were wrong in which way, one line."""
    kinds = Counter(_kind(one, phrases) for one in _asked(calls) if not one.text_right)
    return "wrong texts: " + (", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none")


def by_voice(calls: Sequence[CallScore]) -> str:
    """Lists the share of right texts for each voice that asked, the worst first, one line each."""
    voices = {one.voice for one in _asked(calls)}
    shares = {
        voice: Share.of(one.text_right for one in _asked(calls) if one.voice == voice) for voice in voices
    }
    worst = sorted(voices, key=lambda voice: (shares[voice].good / shares[voice].count, voice))
    return "\n".join(f"{shares[voice]} right for {voice}" for voice in worst)


def failures(calls: Sequence[CallScore], most: int) -> str:
    """Lists the questions that went wrong, most frequent first: what was asked, said and heard."""
    wrong = Counter(
        (one.question or "(greeting)", _verdict(one))
        for call in calls
        for one in call.answers
        if not (one.text_right and one.audio_right and in_time(one))
    )
    return "\n".join(
        f"{count:4}x {asked!r}: {verdict}" for (asked, verdict), count in wrong.most_common(most)
    )


def _asked(calls: Sequence[CallScore]) -> list[AnswerScore]:
    return [one for call in calls for one in call.answers if one.question is not None]


def _kind(score: AnswerScore, phrases: Phrases) -> str:
    said = plain(score.said)
    if not said:
        return "missing"
    if said == plain(phrases.default):
        return "the default answer"
    if said in map(plain, phrases.spoken):
        return "another answer"
    if score.on_track:
        return "the beginning of the right one"
    return "right with more around it" if plain(score.expected) in said else "garbled"


def _verdict(score: AnswerScore) -> str:
    parts: list[str] = []
    if not score.text_right:
        parts.append(f"said {score.said[:SHOWN]!r}")
    if not score.audio_right:
        what = (
            "nothing"
            if not score.heard
            else "the right one"
            if score.heard == score.expected
            else score.heard
        )
        parts.append(f"sounded like {what!r} for {score.sound_s:.1f} s")
    if not in_time(score) and score.delay_s is not None:
        parts.append(f"{score.delay_s:.1f} s after the question")
    return ", ".join(parts)
