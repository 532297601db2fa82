"""Reads what a recogniser writes, frame by frame, as text with its times in the audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.config import require_value
from moshi_agent.errors import ConfigError
from moshi_agent.saved import saved_value
from moshi_agent.text.pieces import Tokenizer
from moshi_agent.text.word_tracker import TimedWord, WordTracker

# What each extra head of Kyutai's models foretells: silence for so many seconds.
PAUSE_HORIZONS_S = (0.5, 1.0, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class TimedPiece:
    """Holds a piece of text as soon as it is written; a leading space begins a word."""

    text: str
    start: float  # seconds from the beginning of the audio


@dataclass(frozen=True, slots=True)
class Pause:
    """Says that the speaker has stopped, as it seems for longer."""

    at: float  # seconds from the beginning of the audio
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseConfig:
    """Says when a pause is told."""

    horizon_s: float = 2.0  # how long the speaker is expected to be silent
    threshold: float = 0.5  # of the probability of that
    hold_frames: int = 3  # one after the other above it: single ones are, in the middle of speech

    def __post_init__(self) -> None:
        require_value("horizon_s", self.horizon_s, PAUSE_HORIZONS_S)
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold={self.threshold}; accepted: above 0, below 1")
        if self.hold_frames < 1:
            raise ConfigError(f"hold_frames={self.hold_frames}; accepted: 1 or more")


@dataclass(frozen=True, slots=True)
class Heard:
    """Holds what has become known with one frame."""

    piece: TimedPiece | None = None
    words: list[TimedWord] = field(default_factory=list[TimedWord])
    pause: Pause | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """Holds what has to be known of a recogniser to read what it writes."""

    tokenizer: Tokenizer
    delay_s: float


class TimedReader:
    """Follows one stream of a recogniser's tokens.

    What is written after hearing a frame is about what was said `delay_s` before that frame's end. A word
    lasts until the next one begins, a second at most. A pause is told once for each stretch of speech, and
    not before some of it has been written.

    Args:
        tokenizer: the recogniser's.
        delay_s: by which its text is later than the audio.
        start_s: when frame 0 begins, in seconds of the audio; below 0 where silence was heard first.
        pauses: when they are told; by a model without a head for it, never.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        delay_s: float,
        start_s: float = 0.0,
        pauses: PauseConfig | None = None,
    ) -> None:
        self._delay_s = delay_s
        self._start_s = start_s
        self._pauses = pauses or PauseConfig()
        self._head = PAUSE_HORIZONS_S.index(self._pauses.horizon_s)
        self._words = WordTracker(tokenizer, FRAME_S)
        self._spoken_s = self._paused_s = -1.0  # what the last piece is about; the last pause told
        self._likely_frames = 0  # in which a pause has been likely, up to now

    def read(self, frame: int, token: int, heads: Sequence[float]) -> Heard:
        """Takes what the model gave after hearing `frame`, which counts from 0.

        Args:
            token: of the text stream.
            heads: the first probability of each extra head.
        """
        text, piece = self._words.add(token, frame + 1), None
        if text:
            self._spoken_s = self._time((frame + 1) * FRAME_S - self._delay_s)
            piece = TimedPiece(text, self._spoken_s)
        words = [self._timed(word) for word in self._words.hear(frame, audible=True)]
        return Heard(piece, words, self._pause(frame, heads))

    def finish(self, frame: int) -> list[TimedWord]:
        """Ends the stream before `frame`. Returns the words not given yet."""
        return [self._timed(word) for word in self._words.finish(frame + 1)]

    def _pause(self, frame: int, heads: Sequence[float]) -> Pause | None:
        is_likely = self._head < len(heads) and heads[self._head] > self._pauses.threshold
        self._likely_frames = self._likely_frames + 1 if is_likely else 0
        # Text is later than the pause that follows it: what was said before the last pause is no news.
        if self._likely_frames < self._pauses.hold_frames or self._spoken_s <= self._paused_s:
            return None
        self._paused_s = self._time((frame + 1) * FRAME_S)
        return Pause(self._paused_s, heads[self._head])

    def _timed(self, word: TimedWord) -> TimedWord:
        return TimedWord(word.word, *(self._time(at - self._delay_s) for at in (word.start, word.end)))

    def _time(self, stream_s: float) -> float:
        """Seconds of the audio, of seconds since frame 0 began."""
        return max(0.0, round(stream_s + self._start_s, 6))

    def save(self) -> dict[str, Any]:
        """Returns everything that the next frame depends on, fit for JSON."""
        return {
            "words": self._words.save(),
            "spoken_s": self._spoken_s,
            "paused_s": self._paused_s,
            "likely_frames": self._likely_frames,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` returned."""
        self._words.load(saved["words"])
        self._spoken_s, self._paused_s = (saved_value(saved[k], float, k) for k in ("spoken_s", "paused_s"))
        self._likely_frames = saved_value(saved["likely_frames"], int, "likely_frames")
