"""What the user says, as the recogniser writes it, as events."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.engine.call.stamp import Stamp
from moshi_agent.engine.step.step_tensors import RowOutput
from moshi_agent.events import Event, UserPaused, UserSaid, UserText, UserWord
from moshi_agent.saved import saved_record
from moshi_agent.text.timed_reader import Heard, Hearing, TimedReader
from moshi_agent.text.word_tracker import TimedWord

_SETTLED_FRAMES = 3  # without a piece: what was said until then has been written
_VOICE_HOLD_FRAMES = 5  # after the last sound before the user counts as silent: `VoiceActivity.stop_ms`
_LONGEST_TEXT = 2000  # characters of one `UserSaid`


class UserWords:
    """Follows what one user says.

    Text is told as it is written, a word once its end is known, and all of it in one piece once the user has
    stopped: when nobody is heard to speak or the recogniser takes it for a pause, and the text, which runs
    behind the audio, has caught up with that.
    """

    def __init__(self, hearing: Hearing) -> None:
        self._reader = TimedReader(hearing.tokenizer, hearing.delay_s)
        self._delay_frames = math.ceil(hearing.delay_s / FRAME_S)
        self._state = _State()

    def follow(self, output: RowOutput, user_speaks: bool, stamp: Stamp) -> list[Event]:
        """Returns what the recogniser's output for the frame of `stamp` tells.

        Args:
            user_speaks: by voice activity.
        """
        heard, state = self._reader.read(stamp.frame, output.next_text, output.heads), self._state
        state.quiet_frames = 0 if user_speaks else state.quiet_frames + 1
        state.unwritten_frames = 0 if heard.piece else state.unwritten_frames + 1
        if state.paused_frames is not None:
            state.paused_frames += 1
        elif heard.pause is not None:
            state.paused_frames = 0
        events = self._events(heard, stamp)
        return [*events, *self._end(stamp)] if self._has_stopped() else events

    def _events(self, heard: Heard, stamp: Stamp) -> list[Event]:
        events: list[Event] = []
        if heard.piece is not None:
            text, start = heard.piece.text, heard.piece.start
            self._state.text += text
            events.append(stamp.event(UserText, text=text, start=start))
        events += [self._told(word, stamp) for word in heard.words]
        if heard.pause is not None:
            events.append(stamp.event(UserPaused, probability=round(heard.pause.probability, 3)))
        return events

    def _told(self, word: TimedWord, stamp: Stamp) -> Event:
        state = self._state
        state.start = word.start if state.start is None else state.start
        state.end = word.end
        return stamp.event(UserWord, text=word.word, start=word.start, end=word.end)

    def _has_stopped(self) -> bool:
        state = self._state
        if not state.text.strip() or state.unwritten_frames < _SETTLED_FRAMES:
            return len(state.text) > _LONGEST_TEXT
        to_catch_up = max(0, self._delay_frames - _VOICE_HOLD_FRAMES) + _SETTLED_FRAMES
        is_paused = state.paused_frames is not None and state.paused_frames >= self._delay_frames
        return is_paused or state.quiet_frames >= to_catch_up

    def _end(self, stamp: Stamp) -> list[Event]:
        """The last words of what was said, and all of it."""
        words = [self._told(word, stamp) for word in self._reader.finish(stamp.frame + 1)]
        state, self._state = self._state, _State()
        text = state.text.strip()
        if not text:
            return words
        start, end = state.start or 0.0, state.end
        return [*words, stamp.event(UserSaid, text=text, start=start, end=end)]

    def finish(self, stamp: Stamp) -> list[Event]:
        """Ends the words: the frame of `stamp` would have been the next."""
        return self._end(Stamp(stamp.frame - 1, stamp.wall_s))

    def save(self) -> dict[str, Any]:
        """Returns everything that the next frame depends on, fit for JSON."""
        return {"reader": self._reader.save(), **asdict(self._state)}

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave."""
        state = dict(saved)
        self._reader.load(state.pop("reader"))
        self._state = saved_record(_State, state)


@dataclass(slots=True)
class _State:
    text: str = ""  # written since the last `UserSaid`
    start: float | None = None  # of its first word
    end: float = 0.0  # of its last word known
    quiet_frames: int = 0  # in which the user has not spoken, up to now
    unwritten_frames: int = 0  # in which nothing has been written, up to now
    paused_frames: int | None = None  # since the recogniser took it for a pause
