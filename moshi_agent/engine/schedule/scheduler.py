"""Who takes part in the next frame step.

A step starts as soon as frames are ready and the device is free, with everyone who is ready and one frame of
each. The scheduler has no clock: `now`, in seconds of any clock that never goes back, is passed in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from moshi_agent.engine.schedule.pace import Pace
from moshi_agent.errors import BacklogFull, ConfigError

Key = TypeVar("Key", bound=Hashable)
Frame = TypeVar("Frame")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Generic[Key, Frame]):
    """What a conversation brings into a step."""

    key: Key
    frame: Frame | None  # None: silence, since the input has stalled
    skipped: int = 0  # silent frames left out just before this one
    waited_s: float = 0.0  # from the arrival of an input frame to this step
    backlog_s: float = 0.0  # input that waits behind it
    begins_stall: bool = False  # the first silence of a stall
    resumed_after: int = 0  # silences fed before this frame, if it ends a stall


class _Waiting(NamedTuple, Generic[Frame]):
    frame: Frame
    arrived: float
    silent: bool
    chunk: int = 0


@dataclass(slots=True)
class _Conversation(Generic[Frame]):
    pace: Pace
    silence_due: float  # when silence is fed if nothing arrives before
    backlog_limit: int  # frames
    longest_backlog: int  # frames
    urgent: deque[_Waiting[Frame]] = field(default_factory=deque[_Waiting[Frame]])
    input: deque[_Waiting[Frame]] = field(default_factory=deque[_Waiting[Frame]])
    expected_at: float = math.inf  # when the next input should come, as the last one did
    silences: int = 0  # fed in the present stall
    left_out: int = 0  # frames that had no room, since the last one taken
    newest_chunk: int = 0
    finished: bool = False

    @property
    def is_awaited(self) -> bool:
        """Whether its next frame comes by the clock, as input or as silence."""
        return self.pace.live and not self.finished

    @property
    def ready_at(self) -> float:
        """When its next frame is or was ready if nothing more arrives: infinite for never."""
        if self.urgent:
            return self.urgent[0].arrived
        if self.input:
            return self.input[0].arrived
        return self.silence_due if self.is_awaited else math.inf

    def worth_waiting_for(self, longest: float) -> float:
        """Until when a step does well to wait for the next frame: at most `longest`, else long ago."""
        if self.urgent or self.input or not self.is_awaited:
            return -math.inf
        if self.silences:
            return self.silence_due if self.silence_due <= longest else -math.inf
        return longest if self.expected_at <= longest else -math.inf

    @property
    def backlog_s(self) -> float:
        """Seconds of input that wait."""
        return len(self.input) * self.pace.frame_s

    def expect_next(self, now: float) -> None:
        """An input has come now; how far it was from its time is mostly chance."""
        late_s = now - self.expected_at
        in_rhythm = abs(late_s) < self.pace.frame_s / 2
        self.expected_at = self.pace.frame_s + (now - 0.9 * late_s if in_rhythm else now)

    def await_input(self, now: float, grace_s: float) -> None:
        """From now on, input has a frame's time and the grace to come before silence is fed."""
        self.silence_due = max(self.silence_due, now + self.pace.frame_s + grace_s)

    def take(self, key: Key, now: float) -> Ready[Key, Frame]:
        if self.urgent:
            return self._take_urgent(key, now)
        if self.input:
            return self._take_input(key, now)
        return self._take_silence(key, now)

    def _take_urgent(self, key: Key, now: float) -> Ready[Key, Frame]:
        self.await_input(now, grace_s=0.0 if self.silences else self.pace.stall_s)
        return Ready(key=key, frame=self.urgent.popleft().frame, backlog_s=self.backlog_s)

    def _take_input(self, key: Key, now: float) -> Ready[Key, Frame]:
        skipped = self.left_out + self._skip_silent()
        self.left_out = 0
        head = self.input.popleft()
        resumed_after, self.silences = self.silences, 0
        return Ready(
            key=key,
            frame=head.frame,
            skipped=skipped,
            waited_s=now - head.arrived,
            backlog_s=self.backlog_s,
            resumed_after=resumed_after,
        )

    def _skip_silent(self) -> int:
        """Leaves out silent frames while what came after them exceeds the limit; returns how many."""
        before = len(self.input)
        while self.pace.live and self.input[0].silent and self._came_after_head() > self.backlog_limit:
            self.input.popleft()
        return before - len(self.input)

    def _came_after_head(self) -> int:
        """Frames behind the first one, without those that came in one chunk with it: they are not late."""
        behind = len(self.input) - 1
        if behind <= self.backlog_limit or not self.input[0].chunk:
            return behind
        return sum(waiting.chunk != self.input[0].chunk for waiting in self.input)

    def _take_silence(self, key: Key, now: float) -> Ready[Key, Frame]:
        # Silences that a busy device has missed are made up for as far as waiting input would be.
        due = max(self.silence_due, now - self.pace.backlog_limit_s)
        self.silence_due = due + self.pace.frame_s
        self.silences += 1
        return Ready(key=key, frame=None, begins_stall=self.silences == 1)


class Scheduler(Generic[Key, Frame]):
    """Holds the frames that wait, of every conversation, and says which are next.

    Every frame pushed comes out of `batch` in the order of its conversation, unless the conversation is
    removed before, or is live and late: then silent frames are skipped, and the oldest where too many wait.
    Not thread-safe: one thread owns it.

    Args:
        gather_s: once a frame is ready, a step waits for more of them for at most so long, and only for
            conversations whose next frame should come within that time.
    """

    def __init__(self, gather_s: float = 0.0) -> None:
        self.gather_s = gather_s
        self._conversations: dict[Key, _Conversation[Frame]] = {}

    @property
    def gather_s(self) -> float:
        """Seconds; may be set at any time. Raises ConfigError for what is negative or infinite."""
        return self._gather_s

    @gather_s.setter
    def gather_s(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise ConfigError(f"gather_s={seconds} must be finite and not negative")
        self._gather_s = seconds

    def __len__(self) -> int:
        return len(self._conversations)

    def __contains__(self, key: object) -> bool:
        return key in self._conversations

    def add(self, key: Key, now: float, pace: Pace, urgent: Iterable[Frame] = ()) -> None:
        """Begins a conversation, with frames that go before any input. Raises ValueError if it has begun."""
        if key in self._conversations:
            raise ValueError(f"{key!r} is scheduled already")
        conversation = _Conversation[Frame](
            pace=pace,
            silence_due=now + pace.frame_s + pace.stall_s,
            backlog_limit=pace.frames_in(pace.backlog_limit_s),
            longest_backlog=pace.frames_in(pace.longest_backlog_s),
        )
        self._conversations[key] = conversation
        self.push_urgent(key, urgent, now)

    def remove(self, key: Key) -> int:
        """Ends a conversation at once. Returns how many frames it leaves behind."""
        left = self.waiting(key)
        del self._conversations[key]
        return left

    def push(self, key: Key, frame: Frame, now: float, silent: bool, chunk: int = 0) -> None:
        """Takes a frame of input; a silent one may be skipped to catch up. Ends a stall.

        Frames of one chunk, whose number is not 0, have come together because they were sent together: they
        do not make each other late, and the next input is due when all of them have been heard.

        Raises:
            BacklogFull: `longest_backlog_s` of input waits; the frame is not taken, unless the pace has the
                oldest make room for it.
        """
        conversation = self._conversations[key]
        if not self.room(key):
            if not conversation.pace.drops_oldest:
                raise BacklogFull(
                    f"{conversation.backlog_s:.2f} s of input wait already, and at most "
                    f"{conversation.pace.longest_backlog_s:.2f} s may: push no faster than frames are taken"
                )
            conversation.input.popleft()
            conversation.left_out += 1
        goes_on = bool(chunk) and conversation.newest_chunk == chunk
        conversation.newest_chunk = chunk
        conversation.input.append(_Waiting(frame, now, silent, chunk))
        conversation.expect_next(now)
        if goes_on:
            conversation.silence_due += conversation.pace.frame_s
        else:
            conversation.await_input(now, conversation.pace.stall_s)

    def push_urgent(self, key: Key, frames: Iterable[Frame], now: float) -> None:
        """Takes frames that need no clock, as those of a prompt: one a step, before any input, none skipped.

        While they last no stall begins or goes on.
        """
        self._conversations[key].urgent.extend(_Waiting(frame, now, False) for frame in frames)

    def put_back(self, key: Key, frame: Frame, now: float) -> None:
        """Takes back an urgent frame that `batch` gave and whose turn had not come: it is the next again."""
        self._conversations[key].urgent.appendleft(_Waiting(frame, now, False))

    def drop_urgent(self, key: Key) -> None:
        """Forgets the frames that need no clock."""
        self._conversations[key].urgent.clear()

    def has_urgent(self, key: Key) -> bool:
        """Tells whether frames that need no clock are left."""
        return bool(self._conversations[key].urgent)

    def finish(self, key: Key) -> None:
        """Ends the input: no silence is fed any more. What is pushed after it, a tail, is taken."""
        self._conversations[key].finished = True

    def batch(self, now: float) -> list[Ready[Key, Frame]]:
        """Returns everyone who is ready, with one frame each; nobody while more may still be gathered."""
        if now < self._starts_at():
            return []
        return [
            conversation.take(key, now)
            for key, conversation in self._conversations.items()
            if conversation.ready_at <= now
        ]

    def wake_at(self, now: float) -> float | None:
        """Tells when `batch` gives something though nothing more is pushed.

        `now` if at once, None if never.
        """
        starts_at = self._starts_at()
        return None if starts_at == math.inf else max(now, starts_at)

    def _starts_at(self) -> float:
        """When the first is ready, or when those worth waiting for are, or should have been."""
        conversations = self._conversations.values()
        first = min((conversation.ready_at for conversation in conversations), default=math.inf)
        longest = first + self.gather_s
        return max([first, *(conversation.worth_waiting_for(longest) for conversation in conversations)])

    def waiting(self, key: Key) -> int:
        """Tells how many frames of a conversation wait, urgent ones included."""
        conversation = self._conversations[key]
        return len(conversation.urgent) + len(conversation.input)

    def backlog_s(self, key: Key) -> float:
        """Tells how many seconds of a conversation's input wait."""
        return self._conversations[key].backlog_s

    def room(self, key: Key) -> int:
        """Tells how many frames of input `push` takes before it refuses one."""
        conversation = self._conversations[key]
        return max(0, conversation.longest_backlog - len(conversation.input))

    def save(self, key: Key) -> dict[str, Any]:
        """Returns what waits of a conversation, as plain numbers and lists, with its frames as they are."""
        conversation = self._conversations[key]
        return {
            "urgent": [waiting.frame for waiting in conversation.urgent],
            "input": [waiting.frame for waiting in conversation.input],
            "silent": [waiting.silent for waiting in conversation.input],
            "silences": conversation.silences,
            "finished": conversation.finished,
        }

    def load(self, key: Key, saved: dict[str, Any], now: float) -> None:
        """Gives a conversation what `save` returned, instead of its own; it has all just arrived."""
        conversation = self._conversations[key]
        conversation.urgent = deque(_Waiting(frame, now, False) for frame in saved["urgent"])
        conversation.input = deque(
            _Waiting(frame, now, silent)
            for frame, silent in zip(saved["input"], saved["silent"], strict=True)
        )
        conversation.silences = saved["silences"]
        conversation.finished = saved["finished"]
        conversation.await_input(now, conversation.pace.stall_s)
