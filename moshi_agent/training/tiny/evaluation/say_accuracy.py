"""Whether the bot says what it is told to (`Session.say`), out of the blue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.engine import Engine
from moshi_agent.engine.session import Session
from moshi_agent.events import AudioChunk
from moshi_agent.training.tiny.answers import Answer
from moshi_agent.training.tiny.evaluation.matching import Matcher
from moshi_agent.training.tiny.evaluation.scoring import LENGTH_RANGE
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, LOUD_DB, Audio, loud_span

SILENCE_FRAMES = 6  # before it is told
LOUDNESS_RANGE_DB = 6.0  # from the reference


@dataclass(frozen=True, kw_only=True)
class SayScore:
    """What the bot made of one text."""

    text: str
    heard: str  # the reference that the sound is most like; "" if there was none
    length_share: float  # of the sound, as a share of the reference's
    louder_db: float  # than the reference

    @property
    def right(self) -> bool:
        """Whether it sounds like the text, in its pace and at its level."""
        in_pace = LENGTH_RANGE[0] <= self.length_share <= LENGTH_RANGE[1]
        return self.heard == self.text and in_pace and abs(self.louder_db) <= LOUDNESS_RANGE_DB


def tell(engine: Engine, texts: Sequence[str], seed: int) -> list[Audio]:
    """Tells a conversation of its own each of the texts; `engine` needs a row for each. [samples] each."""
    sessions: list[Session] = []
    for number, text in enumerate(texts):
        session = engine.session(SessionConfig(seed=seed + number, live=False, tail_ms=2000.0)).open()
        session.push(np.zeros(SILENCE_FRAMES * FRAME_SAMPLES, np.float32))
        session.say(text)
        session.finish()
        sessions.append(session)
    return [
        np.concatenate([event.pcm for event in session if isinstance(event, AudioChunk)])
        for session in sessions
    ]


def score(answers: Sequence[Answer], sounds: Sequence[Audio]) -> list[SayScore]:
    """How like each of the sounds, [samples], is to the answer that it should be."""
    matcher = Matcher([_loud(answer.audio) for answer in answers])
    return [_score(matcher, answers, index, sound) for index, sound in enumerate(sounds)]


def report(scores: Sequence[SayScore]) -> str:
    """How many were right, and what became of the others."""
    wrong = [one for one in scores if not one.right]
    lines = [f"told to say one of its texts: {len(scores) - len(wrong)} of {len(scores)} sound right"]
    lines += [
        f"  {one.text!r}: like {one.heard!r}, {one.length_share:.2f} of its length, {one.louder_db:+.1f} dB"
        for one in wrong
    ]
    return "\n".join(lines)


def _score(matcher: Matcher, answers: Sequence[Answer], index: int, audio: Audio) -> SayScore:
    sound, reference = _loud(audio), _loud(answers[index].audio)
    return SayScore(
        text=answers[index].text,
        heard=answers[matcher.nearest(sound)].text if len(sound) else "",
        length_share=len(sound) / len(reference),
        louder_db=_level_db(sound) - _level_db(reference) if len(sound) else float("-inf"),
    )


def _loud(audio: Audio) -> Audio:
    """From the first loud sample to the last."""
    first, last = loud_span(audio, LOUD_DB)
    return audio[first : last + 1]


def _level_db(audio: Audio) -> float:
    return float(10 * np.log10(np.mean(np.square(audio)) + 1e-12))
