"""What the bot of one conversation may write: anything, nothing, or the sentences that it is told to say."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.engine.call.say import SayQueue
from moshi_agent.errors import InputError
from moshi_agent.events import SayFinished, SayHeard
from moshi_agent.models.generator import ANY_TEXT
from moshi_agent.saved import saved_record
from moshi_agent.text.pieces import Tokenizer, Words, is_text

_LONGEST_HOLD_S = 3600.0
_ALONE_FRAMES = math.ceil(1.0 / FRAME_S)  # of silence after a sentence that is to stand alone
_SILENT_FRAMES = math.ceil(1.0 / FRAME_S)  # after which a sentence whose end has no sound counts as heard
_LONGEST_SOUND_FRAMES = math.ceil(4.0 / FRAME_S)  # of a sentence after its last piece

SayEvent = SayFinished | SayHeard


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the text of one frame is to be."""

    forced: int | None = None  # the token to take
    next_piece: int = ANY_TEXT  # the one piece that may come, beside padding
    ahead: int = ANY_TEXT  # the same, for a model that is told ahead: once it is time for it


_FREE = Guidance()


class TextGuide:
    """Guides the text of a conversation, frame by frame.

    Sentences to be said come first; where there are none and the bot is held, padding is forced, in which it
    hears and says nothing. A word of its own that it is in the middle of comes to its end before either.

    Args:
        tokenizer: as for `SayQueue`.
        padding: the token of the text stream in whose frames no word begins.
        max_delay: frames by which a piece is written before it is said.
    """

    def __init__(self, tokenizer: Tokenizer | None, padding: int, max_delay: int) -> None:
        self._tokenizer = tokenizer
        self._queue = SayQueue(tokenizer)
        self._padding = padding
        self._max_delay = max_delay
        self._unheard: list[_Unheard] = []  # in the order in which they were written
        self._state = _State()

    @property
    def is_saying(self) -> bool:
        """Whether it has sentences that are not done."""
        return bool(self._queue)

    @property
    def is_held(self) -> bool:
        """Whether the bot is to say nothing of its own."""
        state = self._state
        return state.held_frames > 0 or state.alone_frames > 0

    def say(self, text: str, at_once: bool = False, alone: bool = False, words: Words | None = None) -> None:
        """Queues a sentence, and ends a hold. Arguments and errors are those of `SayQueue.add`."""
        self._queue.add(text, at_once, alone, words)
        self._state.held_frames = 0

    def hold(self, seconds: float) -> None:
        """Holds the bot for so long, instead of what was left of a hold; 0 releases it.

        Raises:
            InputError: less than 0, or more than an hour.
        """
        if not 0 <= seconds <= _LONGEST_HOLD_S:
            raise InputError(f"a hold of {seconds} s; accepted: 0 to {_LONGEST_HOLD_S:g} s")
        self._state.held_frames = math.ceil(seconds / FRAME_S)
        if not seconds:
            self._state.alone_frames = 0

    def guidance(self, is_waiting: bool = False) -> Guidance:
        """Tells what the next frame's text is to be.

        Args:
            is_waiting: the bot is held for another reason.
        """
        guided = self._queue.current
        if guided is not None:
            # The first word does not cut off the end of the sentence before it.
            is_early = guided.is_at_start and bool(self._unheard)
            return Guidance(
                forced=guided.next_piece if guided.must and not is_early else None,
                next_piece=guided.next_piece,
                ahead=ANY_TEXT if is_early else guided.next_piece,
            )
        if (self.is_held or is_waiting) and not self._queue.in_own_word:
            return Guidance(self._padding)
        return _FREE

    def advance(self, token: int, user_speaks: bool, is_audible: bool) -> list[tuple[type[SayEvent], str]]:
        """Takes the text token of a frame.

        Args:
            user_speaks: in this frame, by voice activity.
            is_audible: the bot is, in this frame.

        Returns:
            What has become of which sentence with it.
        """
        writes = self._tokenizer is not None and is_text(self._tokenizer, token)
        heard = self._hear(is_audible, writes)
        self._count(user_speaks)
        guided, text = self._queue.current, self._queue.advance(token)
        if guided is None or text is None:
            return heard
        self._unheard.append(_Unheard(text))
        if guided.alone and not self._queue:
            self._state.alone_frames = _ALONE_FRAMES
        return [*heard, (SayFinished, text)]

    def _hear(self, is_audible: bool, writes: bool) -> list[tuple[type[SayEvent], str]]:
        """The sentences that come to their end: the bot falls silent, or says something else."""
        for one in self._unheard:
            one.pass_frame(is_audible, writes, self._max_delay)
        heard = [one.text for one in self._unheard if one.is_over]
        self._unheard = [one for one in self._unheard if not one.is_over]
        return [(SayHeard, text) for text in heard]

    def _count(self, user_speaks: bool) -> None:
        state = self._state
        state.held_frames = max(0, state.held_frames - 1)
        if user_speaks or self._queue:
            state.alone_frames = 0
        elif not self._unheard:
            state.alone_frames = max(0, state.alone_frames - 1)

    def save(self) -> dict[str, Any]:
        """Returns everything that the next frame depends on, fit for JSON."""
        unheard = [asdict(one) for one in self._unheard]
        return {"say_queue": self._queue.save(), "unheard": unheard, "hold": asdict(self._state)}

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave."""
        self._queue.load(saved["say_queue"])
        self._unheard = [saved_record(_Unheard, one) for one in saved["unheard"]]
        self._state = saved_record(_State, saved["hold"])


@dataclass(slots=True)
class _State:
    held_frames: int = 0  # for which the bot is still held
    alone_frames: int = 0  # of silence that a sentence which stands alone still wants


@dataclass(slots=True)
class _Unheard:
    """A sentence that is written, and is still being spoken."""

    text: str
    frames: int = 0  # since its last piece
    was_audible: bool = False  # its end was
    left_frames: int | None = None  # until the sound of what was written next
    is_over: bool = False

    def pass_frame(self, is_audible: bool, writes: bool, max_delay: int) -> None:
        """Goes on by a frame, in which something may have been written."""
        self.frames += 1
        if self.left_frames is not None:
            self.left_frames -= 1
        elif writes:
            self.left_frames = max_delay
        if self.frames >= max_delay:
            fell_silent = not is_audible and (self.was_audible or self.frames >= max_delay + _SILENT_FRAMES)
            longest = max_delay + _LONGEST_SOUND_FRAMES
            self.is_over = fell_silent or self.left_frames == 0 or self.frames >= longest
            self.was_audible |= is_audible
