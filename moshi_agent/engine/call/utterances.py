"""What one user says, cut at its pauses, for a recogniser of the application's own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from moshi_agent.audio.framing import FRAME_S, FRAME_SAMPLES, Frame, Samples
from moshi_agent.errors import InputError
from moshi_agent.saved import saved_value
from moshi_agent.text.word_tracker import TimedWord

_BEFORE_FRAMES = 4  # that go before the voice, which is noticed some time after it begins
_LONGEST_FRAMES = 375  # 30 s, as much as Whisper hears at once
_MOST_UNREAD = 4  # utterances that a recogniser may be behind; more are not written down


@dataclass(frozen=True, slots=True)
class Utterance:
    """What the user has said between two pauses."""

    start_s: float  # of media time
    samples: Samples  # [N] at 24 kHz


class Utterances:
    """Collects the frames of one user from shortly before his voice to its end."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque(maxlen=_BEFORE_FRAMES)
        self._spoken: list[Frame] = []
        self._unread = 0

    @property
    def is_behind(self) -> bool:
        """Whether he has said something that is not written down yet."""
        return bool(self._spoken) or self._unread > 0

    def follow(self, pcm: Frame, speaking: bool, frame: int) -> Utterance | None:
        """Takes a frame, [1920], by its number.

        Returns:
            The utterance that ends with it, to be written down.
        """
        if not self._spoken and not speaking:
            self._frames.append(pcm)
            return None
        if not self._spoken:
            self._spoken = list(self._frames)
            self._frames.clear()
        self._spoken.append(pcm)
        if speaking and len(self._spoken) < _LONGEST_FRAMES:
            return None
        frames, self._spoken = self._spoken, []
        if self._unread >= _MOST_UNREAD:
            return None
        self._unread += 1
        return Utterance(round((frame + 1 - len(frames)) * FRAME_S, 6), np.concatenate(frames))

    def read(self) -> None:
        """Notes that one has been written down."""
        self._unread = max(0, self._unread - 1)

    def save(self) -> dict[str, Any]:
        """Returns what he is saying now. What a recogniser has already is not part of it."""
        spoken = np.concatenate(self._spoken) if self._spoken else np.zeros(0, np.float32)
        return {"spoken": spoken}

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave."""
        spoken = saved["spoken"]
        is_audio = isinstance(spoken, np.ndarray) and spoken.ndim == 1 and spoken.dtype == np.float32
        if not is_audio or len(spoken) % FRAME_SAMPLES or len(spoken) > _LONGEST_FRAMES * FRAME_SAMPLES:
            raise InputError("damaged: what the user says is no audio")
        self._spoken = list(spoken.reshape(-1, FRAME_SAMPLES))


def check_words(words: Any, utterance: Utterance) -> tuple[TimedWord, ...]:
    """Returns what a recogniser has given for an utterance, in the conversation's time.

    Raises:
        InputError: anything but words with their times, or times beyond the utterance.
    """
    length_s = len(utterance.samples) / (FRAME_SAMPLES / FRAME_S)
    read: list[TimedWord] = []
    for word in words:
        text, start, end = word
        if not isinstance(text, str):
            raise InputError(f"a word of type {type(text).__name__}; accepted: text, start and end")
        start, end = (saved_value(time, float, "the time of a word") for time in (start, end))
        start, end = (min(max(float(time), 0.0), length_s) for time in (start, end))
        if text.strip():
            at = utterance.start_s
            read.append(TimedWord(text.strip(), round(at + start, 3), round(at + max(start, end), 3)))
    return tuple(read)
