"""The way from a caller's mouth to the bot: level, noise, telephone or network codec, echo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from moshi_agent.training.tiny import augment
from moshi_agent.training.tiny.augment import HELD_OUT_AUGMENTATION, NoiseBank, decibels
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.speech import (
    FRAME_SAMPLES,
    LOUD_DB,
    NOMINAL_RMS_DB,
    SAMPLE_RATE_HZ,
    Audio,
    loud_span,
)

# From the moment the bot's sound is played until it is in the caller's microphone.
ECHO_PATH_MS = (20.0, 120.0)
LEVEL_SPREAD_DB = 1.5


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Says what happens on the way. One thing at a time, so that each has its own figures."""

    name: str
    noise: bool = False
    mu_law: bool = False
    opus: bool = False
    echo: bool = False


CONDITIONS = (
    Condition(name="clean"),
    Condition(name="noise", noise=True),
    Condition(name="mu-law", mu_law=True),
    Condition(name="Opus, 2 % loss", opus=True),
    Condition(name="echo", echo=True),
)


class Line:
    """Carries a caller's channel, N = frames * FRAME_SAMPLES samples of it.

    Time is the caller's: sample n is recorded at n / 24000 s. What the bot says in reply to frame i is played
    while frame i + 1 is recorded.
    """

    def __init__(self, condition: Condition, noises: NoiseBank, frames: int, rng: Rng) -> None:
        config = HELD_OUT_AUGMENTATION
        self.condition = condition
        self.frames = frames
        self._rng = rng
        self._sent = np.zeros(frames * FRAME_SAMPLES, np.float32)
        self._level_db = float(rng.uniform(*config.level_db))
        if condition.noise:
            noise_db = self._level_db - rng.uniform(*config.snr_db)
            self._sent += noises.draw(len(self._sent), rng) * decibels(noise_db)
        self._echo = _Echo(rng) if condition.echo else None

    def say(self, speech: Audio, loud_end: int, onset: int, earliest: int) -> tuple[int, int]:
        """Puts an utterance on the line.

        Args:
            speech: [samples] at the nominal level; `loud_end` is the last of them that is loud.
            onset: where its first loud sample should be.
            earliest: the first sample that is not recorded yet.

        Returns:
            where its first and its last loud sample are.
        """
        gain_db = self._level_db + self._rng.uniform(-LEVEL_SPREAD_DB, LEVEL_SPREAD_DB) - NOMINAL_RMS_DB
        sent = self._through_codec(np.clip(speech * decibels(gain_db), -1, 1))
        first = loud_span(sent, LOUD_DB)[0]
        start = max(onset - first, earliest)
        self._add(sent, start)
        return start + first, start + loud_end

    def burst(self, start: int) -> None:
        """Puts a short noise on the line."""
        self._add(self._through_codec(augment.burst(self._rng, HELD_OUT_AUGMENTATION)), start)

    def frame(self, number: int) -> Audio:
        """Returns what reaches the bot in one frame, [FRAME_SAMPLES]. Frames are asked for in their order."""
        frame = self._sent[number * FRAME_SAMPLES : (number + 1) * FRAME_SAMPLES]
        if self._echo is not None:
            frame = frame + self._echo.next()
        return np.clip(frame, -1, 1)

    def play(self, bot: Audio) -> None:
        """Plays the reply to the frame asked for last, [FRAME_SAMPLES], on the caller's loudspeaker."""
        if self._echo is not None:
            self._echo.play(bot)

    def _through_codec(self, audio: Audio) -> Audio:
        if self.condition.mu_law:
            return augment.mu_law_round_trip(audio)
        if self.condition.opus:
            return augment.through_opus(audio, self._rng, HELD_OUT_AUGMENTATION)
        return audio

    def _add(self, audio: Audio, start: int) -> None:
        room = self._sent[start : start + len(audio)]
        room += audio[: len(room)]


class _Echo:
    """The bot's voice on its way through the room: late, quiet and dull."""

    def __init__(self, rng: Rng) -> None:
        delay = int(rng.uniform(*ECHO_PATH_MS) * SAMPLE_RATE_HZ / 1000)
        self._factor = decibels(rng.uniform(*HELD_OUT_AUGMENTATION.echo_db))
        self._pole = rng.uniform(0.2, 0.7)
        self._memory: NDArray[np.float64] = np.zeros(1)
        # Holds what is on its way; the first FRAME_SAMPLES of it arrive next.
        self._way = np.zeros(delay + FRAME_SAMPLES, np.float32)

    def next(self) -> Audio:
        arrived = self._way[:FRAME_SAMPLES]
        ends = ([1 - self._pole], [1.0, -self._pole])
        filtered = cast("tuple[Audio, NDArray[np.float64]]", signal.lfilter(*ends, arrived, zi=self._memory))
        dull, self._memory = filtered
        return dull.astype(np.float32) * self._factor

    def play(self, bot: Audio) -> None:
        self._way = np.concatenate([self._way[FRAME_SAMPLES:], bot])
