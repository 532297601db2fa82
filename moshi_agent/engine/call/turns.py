"""Who speaks, frame by frame, as events."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ
from moshi_agent.events import (
    BotStarted,
    BotStopped,
    Interrupted,
    OverlapStarted,
    OverlapStopped,
    UserStarted,
    UserStopped,
)
from moshi_agent.saved import saved_record

TurnEvent = (
    UserStarted | UserStopped | BotStarted | BotStopped | OverlapStarted | OverlapStopped | Interrupted
)

_FRAME_MS = 1000 * FRAME_SAMPLES / SAMPLE_RATE_HZ


@dataclass(frozen=True, kw_only=True)
class TurnsConfig:
    """When the end of the bot's speech counts as an interruption."""

    bot_hold_ms: float = 240  # how long the bot counts as speaking after its last sound: SpeechGate's hold
    yield_ms: float = 2000  # it stopped within this time from when the user began
    pause_ms: float = 400  # a user who fell silent no longer ago than this counts as speaking


@dataclass(slots=True)
class _State:
    user: bool = False
    bot: bool = False
    barge_in_frames: int = -1  # since the user began while the bot spoke; -1 if that is not so
    user_quiet_frames: int = 0


class Turns:
    """Makes events of two voices that start and stop.

    The bot is interrupted if it stops speaking and

    - the user began while the bot spoke (not the other way round), and the bot's sound went on after that,
    - no more than `yield_ms` earlier,
    - and speaks still, or did until `pause_ms` ago: a "mhm" over which the bot talks on does not count,
    - and the bot's text does not end a sentence, in which case it said what it had to say.

    What a bot of two sentences would have said after the first nobody knows: stopped there, it is not
    interrupted.
    """

    def __init__(self, config: TurnsConfig | None = None) -> None:
        config = config or TurnsConfig()
        # The gate counts its hold in windows of 10 ms and a frame with a fade in it as open: one frame more.
        self._bot_hold_frames = round(config.bot_hold_ms / _FRAME_MS) + 1
        self._yield_frames = round(config.yield_ms / _FRAME_MS)
        self._pause_frames = round(config.pause_ms / _FRAME_MS)
        self._state = _State()

    def follow(
        self, user_speaking: bool, bot_speaking: bool, bot_sentence_ended: bool = False
    ) -> list[type[TurnEvent]]:
        """Returns what happens in the next frame, in the order in which to tell it.

        Args:
            user_speaking: `Activity.speaking`.
            bot_speaking: `Gated.is_open`.
            bot_sentence_ended: the bot's text so far ends a sentence, see `ends_sentence`.
        """
        state = self._state
        had_overlap = state.user and state.bot
        began = user_speaking and not state.user
        stopped = state.bot and not bot_speaking
        self._watch_barge_in(user_speaking, began)
        interrupted = stopped and not bot_sentence_ended and self._has_yielded()
        changes: list[tuple[bool, type[TurnEvent]]] = [
            (had_overlap and not (user_speaking and bot_speaking), OverlapStopped),
            (state.user and not user_speaking, UserStopped),
            (stopped, BotStopped),
            (interrupted, Interrupted),
            (began, UserStarted),
            (bot_speaking and not state.bot, BotStarted),
            (user_speaking and bot_speaking and not had_overlap, OverlapStarted),
        ]
        if not bot_speaking:
            state.barge_in_frames = -1
        state.user, state.bot = user_speaking, bot_speaking
        return [event for happens, event in changes if happens]

    def save(self) -> dict[str, Any]:
        """Returns the state, as plain numbers."""
        return asdict(self._state)

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `save` returned."""
        self._state = saved_record(_State, state)

    def _watch_barge_in(self, user_speaking: bool, began: bool) -> None:
        state = self._state
        state.user_quiet_frames = 0 if user_speaking else state.user_quiet_frames + 1
        if state.user_quiet_frames > self._pause_frames:
            state.barge_in_frames = -1
        elif state.barge_in_frames >= 0:
            state.barge_in_frames += 1
        elif began and state.bot:
            state.barge_in_frames = 0

    def _has_yielded(self) -> bool:
        return self._bot_hold_frames < self._state.barge_in_frames <= self._yield_frames
