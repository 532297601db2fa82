"""Plays calls, all of them in step, and keeps what was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from moshi_agent.training.tiny.evaluation.bot import Bot
from moshi_agent.training.tiny.evaluation.caller import Caller, CallPlan, Turn
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, Audio


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Holds a call of N = frames * FRAME_SAMPLES samples. Reply i is heard while frame i + 1 is said."""

    plan: CallPlan
    turns: list[Turn]
    bot: Audio = field(repr=False)  # [N]
    text: NDArray[np.int64] = field(repr=False)  # [frames]
    user: Audio | None = field(repr=False, default=None)  # [N], if it was kept

    @property
    def frames(self) -> int:
        """Counts the frames of the call."""
        return len(self.text)


def play(bot: Bot, callers: Sequence[Caller], frames: int, *, keep_user: bool = False) -> list[Recording]:
    """Plays a call of each caller with the bot's row of the same number.

    Args:
        keep_user: also keeps the callers' channels.
    """
    rows = len(callers)
    said = np.zeros((rows, frames, FRAME_SAMPLES), np.float32)
    heard = np.zeros((rows, frames, FRAME_SAMPLES), np.float32) if keep_user else None
    text = np.zeros((rows, frames), np.int64)
    for number in tqdm(range(frames), desc=f"{rows} calls", unit="frame", disable=None):
        user = np.stack([caller.frame(number) for caller in callers])
        said[:, number], text[:, number] = bot.step(user)
        if heard is not None:
            heard[:, number] = user
        for row, caller in enumerate(callers):
            caller.hear(number, said[row, number])
    return [
        Recording(
            plan=caller.plan,
            turns=caller.turns,
            bot=said[row].reshape(-1),
            text=text[row],
            user=None if heard is None else heard[row].reshape(-1),
        )
        for row, caller in enumerate(callers)
    ]
