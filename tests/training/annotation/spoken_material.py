"""Speech with known words on the left channel of stereo files, made by flite."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import soundfile as sf

from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.training.tiny.speech import SpokenText, Voice, synthesise, synthesise_answer

PAUSE_S = 1.0


@cache
def said(text: str) -> SpokenText:
    """The text in the voice of the answers, with the times of its words."""
    return synthesise_answer(text)


def call(*texts: str) -> tuple[Samples, list[tuple[str, float, float]]]:
    """Texts with a second of silence before, between and after them, [N], and the times of their words."""
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE_HZ), np.float32)
    pieces, words, now_s = [pause], [], PAUSE_S
    for text in texts:
        spoken = said(text)
        words += [(word.word, now_s + word.start, now_s + word.end) for word in spoken.words]
        pieces += [spoken.audio, pause]
        now_s += len(spoken.audio) / SAMPLE_RATE_HZ + PAUSE_S
    return np.concatenate(pieces), words


def write_call(path: Path, *texts: str, rate_hz: int = SAMPLE_RATE_HZ) -> list[tuple[str, float, float]]:
    """A stereo file: the texts on the left, a caller in the first pause on the right."""
    left, words = call(*texts)
    right = np.zeros_like(left)
    question = synthesise("what is that?", Voice(engine="flite", name="kal16"))[: len(right)]
    right[: len(question)] = question
    path.parent.mkdir(parents=True, exist_ok=True)
    step = SAMPLE_RATE_HZ // rate_hz
    sf.write(path, np.stack([left, right], 1)[::step], rate_hz)
    return words
