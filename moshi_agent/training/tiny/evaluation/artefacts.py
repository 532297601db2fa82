"""What a decoder may add to a voice: clicks at the borders of its frames, and a sound in the pauses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from moshi_agent.training.tiny.evaluation.ear import Spoken
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, LOUD_DB, SAMPLE_RATE_HZ, Audio, loud_span

WINDOW = SAMPLE_RATE_HZ // 100  # 10 ms, in which a pause is looked for
PAUSE_SHARE = 0.1  # of the windows of an utterance, the quietest
BORDER = 2  # bends on either side of one


def border_db(sounds: Sequence[Audio]) -> float:
    """How much more the sound bends where a frame of 80 ms begins than around there, in dB; 0 is no more.

    The bend is the second difference, in which a step or a kink of the waveform stands out. A voice knows of
    no frames.

    Args:
        sounds: [samples] each, beginning with a frame.
    """
    ratios = list(chain.from_iterable(map(_border_ratios, sounds)))
    return float(10 * np.log10(np.mean(ratios))) if ratios else 0.0


def _border_ratios(sound: Audio) -> list[float]:
    """Of each border that is among sound, its mean square to that of the 20 ms around it."""
    first, last = loud_span(sound, LOUD_DB)
    bend = np.diff(sound.astype(np.float64), 2) ** 2
    ratios: list[float] = []
    for start in range(FRAME_SAMPLES, len(bend) - WINDOW, FRAME_SAMPLES):
        around = bend[start - WINDOW : start + WINDOW].mean()
        if first <= start <= last and around > 0:
            ratios.append(bend[start - BORDER : start + BORDER].mean() / around)
    return ratios


def pause_dbfs(sounds: Sequence[Audio]) -> float:
    """The level of the quietest tenth of what lies between the first and the last sound of an utterance."""
    quiet = list(chain.from_iterable(map(_quietest, sounds)))
    return float(10 * np.log10(max(np.mean(quiet), 1e-12))) if quiet else -120.0


def _quietest(sound: Audio) -> list[float]:
    """The mean squares of the quietest windows."""
    first, last = loud_span(sound, LOUD_DB)
    count = (last - first) // WINDOW
    if count < 1:
        return []
    windows = sound[first : first + count * WINDOW].astype(np.float64).reshape(count, WINDOW)
    return np.sort((windows**2).mean(1))[: max(1, round(PAUSE_SHARE * count))].tolist()


def artefact_report(told: Sequence[Spoken]) -> str:
    """Both figures, of the bot and of the teacher."""
    bot, teacher = [one.bot for one in told], [one.teacher for one in told]
    return (
        f"bends at the borders of frames: {border_db(bot):+.1f} dB more than elsewhere "
        f"(the teacher's {border_db(teacher):+.1f} dB)\n"
        f"the quietest tenth of what is said: {pause_dbfs(bot):.1f} dBFS "
        f"(the teacher's {pause_dbfs(teacher):.1f})"
    )
