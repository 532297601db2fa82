"""Judges a recorded call: each answer, each interruption, and the silence around them.

Times are those on the wire: the reply to frame i is heard one frame (80 ms) later than it stands in the
recording, which is when that frame has been recorded. Computing adds to it and is not counted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from moshi_agent.text.pieces import text_of
from moshi_agent.training.tiny.evaluation.caller import Turn
from moshi_agent.training.tiny.evaluation.matching import Matcher
from moshi_agent.training.tiny.evaluation.material import Material
from moshi_agent.training.tiny.evaluation.play import Recording
from moshi_agent.training.tiny.phrases import plain
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, LOUD_DB, SAMPLE_RATE_HZ, Audio, loud_span

QUIET_DB = -55.0  # rms of a frame
STOPPED_DB = -60.0  # peak
STOP_FRAMES = 5  # from an interruption's frame on, in which the bot may still sound
EDGE_FRAMES = 1  # soft sounds around an answer's loud ones
LENGTH_RANGE = (0.75, 1.3)  # of an answer's sound, as a share of the reference's
SPOKEN_BEFORE_FRAMES = 6  # within which a bot that is interrupted has been heard


@dataclass(frozen=True, kw_only=True)
class AnswerScore:
    """Says what the bot made of one turn that it was left to answer in peace."""

    condition: str
    at_s: float  # the end of the question, from the start of the call
    question: str | None  # None for the opening
    voice: str  # of the question
    known: bool
    after_interruption: bool
    expected: str
    said: str
    heard: str  # the reference that the sound is most like; "" if there was none
    text_right: bool
    audio_right: bool
    delay_s: float | None  # from the question's end to the first loud sample of the answer
    sound_s: float  # from that to the last loud sample
    sound_share: float  # the same as a share of the right answer's
    burst: bool  # a short noise fell into it

    @property
    def broken_off(self) -> bool:
        """Tells whether the right answer stopped before its end, although nobody was speaking."""
        return self.on_track and self.sound_share < LENGTH_RANGE[0]

    @property
    def on_track(self) -> bool:
        """Tells whether what was said is the right answer as far as it goes."""
        return bool(self.said) and plain(self.expected).startswith(plain(self.said))


@dataclass(frozen=True, kw_only=True)
class InterruptionScore:
    """Says how fast the bot stopped."""

    condition: str
    at_s: float  # the caller's first loud sample
    interrupted: str  # the answer
    stop_s: float  # from there to the bot's last sample above `STOPPED_DB`


@dataclass(frozen=True, kw_only=True)
class CallScore:
    """Holds everything about one call."""

    condition: str
    answers: list[AnswerScore]
    interruptions: list[InterruptionScore]
    quiet_frames: int  # in which the bot should be quiet
    quiet_kept: int  # in which it then was
    greeting_asked: bool
    spoke_first: bool  # before the caller had said anything


@dataclass(frozen=True, kw_only=True)
class _Sound:
    """What is between the first and the last loud sample of a stretch."""

    start: int  # sample of the call
    audio: Audio  # [samples]


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A turn with the frames that its answer may lie in, and what sounds there."""

    turn: Turn
    first: int
    until: int
    cut: bool  # the next turn interrupts the answer
    said: str
    sound: _Sound | None
    heard: int | None  # the answer that the sound is most like


class CallJudge:
    """Judges calls against the references of `material`."""

    def __init__(self, material: Material, tokenizer: SentencePieceProcessor) -> None:
        self._texts = [answer.text for answer in material.answers]
        self._frames = [answer.frames for answer in material.answers]
        self._seconds = [_seconds(_sound(answer.audio, 0)) for answer in material.answers]
        self._matcher = Matcher([answer.audio for answer in material.answers])
        self._tokenizer = tokenizer

    def judge(self, call: Recording) -> CallScore:
        """Scores a call."""
        spans = self._spans(call)
        asked = [span.turn for span in spans if span.turn.question is not None]
        before = call.bot[: (asked[0].onset if asked else len(call.bot)) // FRAME_SAMPLES * FRAME_SAMPLES]
        should_be_quiet = self._should_be_quiet(call, spans)
        kept = should_be_quiet & (_frame_levels_db(call.bot) < QUIET_DB)
        interruptions = [self._interruption(call, *pair) for pair in pairwise(spans)]
        return CallScore(
            condition=call.plan.condition.name,
            answers=[self._answer(call, span) for span in spans if not span.cut],
            interruptions=[score for score in interruptions if score is not None],
            quiet_frames=int(should_be_quiet.sum()),
            quiet_kept=int(kept.sum()),
            greeting_asked=call.plan.greet,
            spoke_first=_sound(before, 0) is not None,
        )

    def _spans(self, call: Recording) -> list[_Span]:
        spans: list[_Span] = []
        for turn, following in zip(call.turns, [*call.turns[1:], None], strict=True):
            cut = following is not None and following.interrupts
            first = max(turn.onset, 0) // FRAME_SAMPLES + (STOP_FRAMES if turn.interrupts else 0)
            until = call.frames
            if following is not None:
                until = following.onset // FRAME_SAMPLES + (STOP_FRAMES if cut else 0)
            sound = _sound(call.bot[: until * FRAME_SAMPLES], first * FRAME_SAMPLES)
            spans.append(
                _Span(
                    turn=turn,
                    first=first,
                    until=until,
                    cut=cut,
                    said=text_of(self._tokenizer, call.text[first:until].tolist()),
                    sound=sound,
                    heard=None if sound is None else self._matcher.nearest(sound.audio),
                )
            )
        return spans

    def _answer(self, call: Recording, span: _Span) -> AnswerScore:
        turn, sound, expected = span.turn, span.sound, self._texts[span.turn.answer]
        share = _seconds(sound) / self._seconds[turn.answer]
        return AnswerScore(
            condition=call.plan.condition.name,
            at_s=turn.end / SAMPLE_RATE_HZ,
            question=turn.question,
            voice=turn.voice,
            known=turn.known,
            after_interruption=turn.interrupts,
            expected=expected,
            said=span.said,
            heard="" if span.heard is None else self._texts[span.heard],
            text_right=plain(span.said) == plain(expected),
            audio_right=span.heard == turn.answer and LENGTH_RANGE[0] <= share <= LENGTH_RANGE[1],
            delay_s=None if sound is None else (sound.start + FRAME_SAMPLES - turn.end) / SAMPLE_RATE_HZ,
            sound_s=_seconds(sound),
            sound_share=share,
            burst=turn.burst is not None,
        )

    def _interruption(self, call: Recording, before: _Span, span: _Span) -> InterruptionScore | None:
        """None if the caller did not interrupt, or did not meet a bot in the middle of the right answer."""
        onset, answer = span.turn.onset, self._texts[before.turn.answer]
        heard_from = (onset // FRAME_SAMPLES - 1) * FRAME_SAMPLES
        recent = call.bot[
            max(heard_from - SPOKEN_BEFORE_FRAMES * FRAME_SAMPLES, 0) : heard_from + FRAME_SAMPLES
        ]
        on_track = plain(answer).startswith(plain(before.said))
        if not before.cut or not on_track or _sound(recent, 0) is None:
            return None
        # What the bot says once the caller has ended is no longer the old answer.
        last = loud_span(call.bot[heard_from : span.turn.end], STOPPED_DB)[1]
        stop = heard_from + last + 1 + FRAME_SAMPLES if last >= 0 else onset
        return InterruptionScore(
            condition=call.plan.condition.name,
            at_s=onset / SAMPLE_RATE_HZ,
            interrupted=answer,
            stop_s=max(stop - onset, 0) / SAMPLE_RATE_HZ,
        )

    def _should_be_quiet(self, call: Recording, spans: list[_Span]) -> NDArray[np.bool_]:
        """All frames but those of one answer to each question, as long as what was said lasts: [frames]."""
        quiet = np.ones(call.frames, bool)
        for span in spans:
            if span.sound is None or span.heard is None:
                continue
            spoken = span.turn.answer if span.cut else span.heard
            begins = span.sound.start // FRAME_SAMPLES
            first = max(begins - EDGE_FRAMES, span.turn.end // FRAME_SAMPLES + 1)
            quiet[first : min(begins + self._frames[spoken] + EDGE_FRAMES, span.until)] = False
        return quiet


def _sound(audio: Audio, start: int) -> _Sound | None:
    first, last = loud_span(audio[start:], LOUD_DB)
    return _Sound(start=start + first, audio=audio[start + first : start + last + 1]) if last >= 0 else None


def _seconds(sound: _Sound | None) -> float:
    return 0.0 if sound is None else len(sound.audio) / SAMPLE_RATE_HZ


def _frame_levels_db(audio: Audio) -> NDArray[np.float32]:
    """[N] -> the rms of each frame in dBFS, [frames]."""
    power = np.mean(np.square(audio.reshape(-1, FRAME_SAMPLES)), axis=1)
    return 10 * np.log10(power + 1e-12)
