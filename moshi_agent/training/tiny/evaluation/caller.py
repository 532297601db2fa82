"""Plays somebody on the phone: asks, listens to the end, waits a little, asks again; or interrupts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moshi_agent.training.tiny.evaluation.line import Condition, Line
from moshi_agent.training.tiny.evaluation.material import Deck, Material
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, LOUD_DB, SAMPLE_RATE_HZ, Audio

PATIENCE_S = 2.5  # without an answer, the caller goes on
SILENCE_S = 1.0  # after which an answer is over
LONGEST_ANSWER_S = 8.0  # a bot that does not stop is talked over
PAUSE_S = (0.1, 2.0)
FIRST_PAUSE_S = (1.0, 3.0)
LEFT_TO_SAY_S = 0.7  # an interruption comes at least that long before the answer would end
ROOM_S = 8.0  # from an onset to the end of the call: no question is left half answered


@dataclass(frozen=True, kw_only=True)
class CallPlan:
    """Says what kind of call it is."""

    condition: Condition
    greet: bool  # the bot is asked to speak first
    interrupting: bool = False
    unknown_share: float = 0.15
    interrupted_share: float = 0.8  # of the answers in an interrupting call
    burst_share: float = 0.25  # of the answers in other calls
    seed: int = 0


@dataclass(kw_only=True)
class Turn:
    """Holds what the caller said. Samples count from the start of the call, in the caller's time.

    The opening has no `question`: the bot was asked to greet, and both samples lie before the call.
    """

    question: str | None
    voice: str
    answer: int  # index of the right answer
    known: bool
    onset: int  # first loud sample
    end: int  # last loud sample
    interrupts: bool = False  # begun in the middle of the answer before
    burst: int | None = None  # where a noise falls into the answer


class Caller:
    """Plays one caller of `plan`, who may draw from decks that other callers draw from as well."""

    def __init__(self, plan: CallPlan, material: Material, known: Deck, unknown: Deck, frames: int) -> None:
        self.plan = plan
        self.turns: list[Turn] = []
        self._rng: Rng = np.random.default_rng(plan.seed)
        self._line = Line(plan.condition, material.noises, frames, self._rng)
        self._material, self._known, self._unknown = material, known, unknown
        self._answer_began: int | None = None  # frames of the bot
        self._last_loud = 0
        self._decided = False  # what the caller does next is already on the line
        if plan.greet:
            opening = Turn(question=None, voice="", answer=material.greeting, known=True, onset=-1, end=-1)
            self.turns.append(opening)
        else:
            self._ask(_samples(self._rng, FIRST_PAUSE_S), earliest=0)

    def frame(self, number: int) -> Audio:
        """Returns what the bot hears from this caller in a frame, [FRAME_SAMPLES]."""
        return self._line.frame(number)

    def hear(self, number: int, bot: Audio) -> None:
        """Takes what the bot replies to that frame, [FRAME_SAMPLES], which is played during the next one."""
        self._line.play(bot)
        if (number + 1) * FRAME_SAMPLES <= self.turns[-1].end:
            return
        now = (number + 1) * FRAME_SAMPLES
        if float(np.abs(bot).max()) > 10 ** (LOUD_DB / 20):
            self._last_loud = number
            if self._answer_began is None:
                self._answer_began = number
                self._react(now)
        if not self._decided and self._is_over(number):
            self._ask(now + _samples(self._rng, PAUSE_S), earliest=now)

    def _is_over(self, number: int) -> bool:
        if self._answer_began is None:
            return (number + 1) * FRAME_SAMPLES - self.turns[-1].end > PATIENCE_S * SAMPLE_RATE_HZ
        silent, talking = number - self._last_loud, number - self._answer_began
        return max(silent / SILENCE_S, talking / LONGEST_ANSWER_S) * FRAME_SAMPLES > SAMPLE_RATE_HZ

    def _react(self, now: int) -> None:
        """The answer has begun to play: the caller may mean to interrupt, or make a noise."""
        length = len(self._material.answers[self.turns[-1].answer].audio)
        first, last = now + FRAME_SAMPLES, now + length - int(LEFT_TO_SAY_S * SAMPLE_RATE_HZ)
        chance = self._rng.random()
        if last <= first:
            return
        moment = int(self._rng.integers(first, last))
        if self.plan.interrupting and chance < self.plan.interrupted_share:
            self._ask(moment, earliest=now, interrupts=True)
        elif not self.plan.interrupting and chance < self.plan.burst_share:
            self._line.burst(moment)
            self.turns[-1].burst = moment

    def _ask(self, onset: int, earliest: int, interrupts: bool = False) -> None:
        """Puts the next thing to say on the line, unless the call is about to end."""
        self._decided = True
        if onset + ROOM_S * SAMPLE_RATE_HZ > self._line.frames * FRAME_SAMPLES:
            return
        deck = self._unknown if self._rng.random() < self.plan.unknown_share else self._known
        prompt = deck.draw()
        voice = prompt.utterance.item.voice
        speech = self._material.corpus.audio(prompt.utterance)
        first, last = self._line.say(speech, prompt.utterance.loud_end, onset, earliest)
        self.turns.append(
            Turn(
                question=prompt.utterance.item.text,
                voice=f"{voice.engine} {voice.name}",
                answer=prompt.answer,
                known=prompt.known,
                onset=first,
                end=last,
                interrupts=interrupts,
            )
        )
        self._decided, self._answer_began = False, None


def _samples(rng: Rng, seconds: tuple[float, float]) -> int:
    return int(rng.uniform(*seconds) * SAMPLE_RATE_HZ)
