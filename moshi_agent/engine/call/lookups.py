"""What is looked up in one conversation: who asks, how long is waited, and what was found, frame by frame."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.config import ReferenceKind
from moshi_agent.engine.asking import AskConfig, Referral
from moshi_agent.engine.step.step_tensors import Reference, ReferenceRow
from moshi_agent.errors import InputError
from moshi_agent.events import AskedBy, ReferenceReason
from moshi_agent.saved import saved_record, saved_value

_log = logging.getLogger("moshi_agent.engine")
_GOES_ON_FRAMES = 3  # of the user's voice, after which he counts as going on: more than a cough
_DECISION_FRAMES = 4  # that `AskConfig.when` may take, once it has the words
_REMEMBERED = 64  # requests that are over


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request is to be told."""

    id: int
    by: AskedBy


@dataclass(frozen=True, slots=True)
class Over:
    """A request is over."""

    id: int
    reason: ReferenceReason
    text: str | None = None


Told = list[Wanted | Over]


class Lookups:
    """Follows the requests of one conversation and gives the row its reference.

    One request is open at a time: the next supersedes it, a user who goes on cancels it, and so does the end
    of its time. A reference is given to the model from the next frame on, a token or a row in each.

    Args:
        session: the number of the conversation, for the log.
        config: as asked for; None looks nothing up unless the application asks.
        kind: how the model takes references.
    """

    def __init__(self, session: int, config: AskConfig | None, kind: ReferenceKind | None) -> None:
        self._session = session
        self._asks = config is not None
        self._config = config or AskConfig()
        self._kind = kind
        self.delay_frames = 0  # until what the user has said up to now is written down, at most
        self._open: _Request | None = None
        self._past: dict[int, ReferenceReason] = {}
        self._state = _State()
        self._queue: list[int] | list[ReferenceRow] = []  # of the reference, what is left of it

    # Asking

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is on its way."""
        return self._open is not None

    @property
    def is_busy(self) -> bool:
        """Whether one is, or is being given to the model."""
        return self.is_waiting or bool(self._queue)

    @property
    def holds(self) -> bool:
        """Whether the bot is to say nothing of its own until the answer is there, or the words are."""
        request = self._open
        if request is None:
            return self._state.undecided_frames > 0
        if self._config.hold is not None:
            return self._config.hold
        # MoshiRAG speaks while it waits; and who is asked with each word of the user has not his turn yet.
        leads_in = request.by == "model" and self._kind == "rows"
        return not leads_in and request.by != "words"

    def ask(self, by: AskedBy) -> tuple[int, Told]:
        """Begins a request. Returns its number and what is to be told now."""
        over = self._end("superseded")
        self._state.asked += 1
        # What the user has said last is not written yet when the model asks.
        tell_in = self.delay_frames if by == "model" else 0
        self._open = _Request(self._state.asked, by, tell_in=tell_in)
        return self._state.asked, [*over, *self._tell()]

    def hear_words(self, words: int, has_stopped: bool) -> Told:
        """Takes how many words of the user have been written down, and whether he has stopped.

        Returns:
            What is to be told.
        """
        state, request = self._state, self._open
        state.words += words
        if has_stopped:
            state.undecided_frames = min(state.undecided_frames, _DECISION_FRAMES)
        told: Told = []
        if has_stopped and request is not None and request.tell_in:
            request.tell_in = 0
            told += self._tell()
        every = self._config.every_words
        if every is None or not (state.words >= every or (has_stopped and state.words)):
            return told
        state.words = 0
        return [*told, *self.ask("words")[1]]

    def follow(self, is_asking: bool, user_speaks: bool) -> Told:
        """Goes on by a frame.

        Args:
            is_asking: the model has written the token by which it asks.
            user_speaks: by voice activity.

        Returns:
            What is to be told.
        """
        told = self._pass_frame(user_speaks)
        begins = is_asking and not self._state.was_asking
        self._state.was_asking = is_asking
        if begins and self._asks and self._config.by_model:
            told += self.ask("model")[1]
        return told

    def _pass_frame(self, user_speaks: bool) -> Told:
        state, request = self._state, self._open
        state.voiced_frames = state.voiced_frames + 1 if user_speaks else 0
        goes_on = state.voiced_frames == _GOES_ON_FRAMES
        if goes_on and not state.is_by_words:
            self._queue = []
        if self._config.awaits_words and state.voiced_frames >= _GOES_ON_FRAMES:
            state.undecided_frames = self.delay_frames  # nobody waits where nothing writes words down
        else:
            state.undecided_frames = max(0, state.undecided_frames - 1)
        if request is None:
            return []
        request.frames += 1
        if goes_on and request.by != "words":
            return self._end("interrupted")
        if request.frames >= math.ceil(self._config.timeout_s / FRAME_S):
            return self._end("timed_out")
        request.tell_in = max(0, request.tell_in - 1)
        return self._tell()

    def _tell(self) -> Told:
        request = self._open
        if request is None or request.is_told or request.tell_in:
            return []
        request.is_told = True
        return [Wanted(request.id, cast("AskedBy", request.by))]

    def sentence_due(self) -> str | None:
        """Returns what the bot is to say while it waits, once, when it is time for it."""
        request, config = self._open, self._config
        if request is None or request.has_filler or config.filler is None or request.by == "words":
            return None
        if request.frames < math.ceil(config.filler_after_s / FRAME_S):
            return None
        request.has_filler = True
        return config.filler

    def apology_for(self, told: Wanted | Over) -> str | None:
        """Returns what the bot is to say where a request has come to nothing."""
        has_failed = isinstance(told, Over) and told.reason in ("timed_out", "failed")
        return self._config.apology if has_failed else None

    # Answering

    def check(self, for_id: int | None) -> Referral | None:
        """Tells why an answer to a request is not taken, if so; None answers whatever is asked, or nothing.

        Raises:
            InputError: a number that no request has had.
        """
        if for_id is None or (self._open is not None and for_id == self._open.id):
            return None
        if not 0 < for_id <= self._state.asked:
            raise InputError(f"request {for_id}; this conversation has had {self._state.asked}")
        if self._past.get(for_id) == "superseded":
            return Referral("superseded", f"request {for_id} was superseded by a newer one")
        return Referral("late", f"request {for_id} is over: {self._past.get(for_id, 'long ago')}")

    def take(self, text: str, reference: Reference | None) -> Told:
        """Takes an answer; `reference` replaces what is left of another, None is for one that is said.

        Returns:
            What is to be told.
        """
        if reference is not None:
            self._queue = list(reference)  # pyright: ignore[reportAttributeAccessIssue]
            self._state.is_by_words = self._open is not None and self._open.by == "words"
        return self._end("answered", text)

    def fail(self) -> Told:
        """Gives up the open request. Returns what is to be told."""
        return self._end("failed")

    def next(self) -> int | ReferenceRow | None:
        """Returns what the model is given in the next frame: a token or a row [dim]; None for nothing."""
        return self._queue.pop(0) if self._queue else None

    def _end(self, reason: ReferenceReason, text: str | None = None) -> Told:
        request, self._open = self._open, None
        if request is None:
            return []
        self._past[request.id] = reason
        while len(self._past) > _REMEMBERED:
            del self._past[next(iter(self._past))]
        seconds = request.frames * FRAME_S
        _log.log(
            logging.WARNING if reason in ("timed_out", "failed") else logging.INFO,
            "session %d: request %d for a reference, by %s, is over after %.2f s: %s",
            *(self._session, request.id, request.by, seconds, reason),
            extra={"session": self._session, "request": request.id, "seconds": seconds, "reason": reason},
        )
        return [Over(request.id, reason, text)] if request.is_told else []

    def save(self) -> dict[str, Any]:
        """Returns everything that the next frame depends on, as plain numbers, lists and arrays."""
        rows = bool(self._queue) and isinstance(self._queue[0], np.ndarray)
        return {
            "state": asdict(self._state),
            "open": self._open and asdict(self._open),
            "past": {str(number): reason for number, reason in self._past.items()},
            "queue": np.stack(self._queue) if rows else list(self._queue),
        }

    def load(self, saved: dict[str, Any], most_token: int, dim: int) -> None:
        """Takes what `save` gave, of a model of so many tokens, or rows so wide.

        An open request is told anew.
        """
        self._state = saved_record(_State, saved["state"])
        self._open = saved["open"] and saved_record(_Request, saved["open"])
        if self._open is not None:
            self._open.is_told = False
        self._past = {int(number): reason for number, reason in saved["past"].items()}
        queue = saved["queue"]
        if self._kind is None or not len(queue):
            self._queue = []
        elif isinstance(queue, np.ndarray):
            check_rows(queue, dim)
            self._queue = list(queue)
        else:
            tokens = [saved_value(token, int, "a reference") for token in queue]
            if not all(0 <= token <= most_token for token in tokens):
                raise InputError("damaged: a reference with tokens that the model lacks")
            self._queue = tokens


def check_rows(rows: NDArray[Any], dim: int) -> None:
    """Raises InputError unless these are rows of a reference, [n, dim] float32."""
    if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype != np.float32 or not np.isfinite(rows).all():
        raise InputError(
            f"rows of a reference of shape {list(rows.shape)} and type {rows.dtype}; accepted: finite "
            f"numbers, [n, {dim}] float32"
        )


@dataclass(slots=True)
class _Request:
    id: int
    by: str  # an `AskedBy`
    tell_in: int = 0  # frames
    frames: int = 0  # since it was made
    is_told: bool = False
    has_filler: bool = False


@dataclass(slots=True)
class _State:
    asked: int = 0  # requests so far
    words: int = 0  # of the user since the last request
    voiced_frames: int = 0  # in which the user has spoken without a pause, up to now
    undecided_frames: int = 0  # until it is taken for known whether what was said is to be looked up
    was_asking: bool = False  # the model wrote its token in the last frame
    is_by_words: bool = False  # the reference answers a request that the user's words have made
