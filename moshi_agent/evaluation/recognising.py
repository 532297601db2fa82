"""What a recogniser hears of the sounds of a sample, written where the benchmark's scripts look for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.evaluation.samples import Sample
from moshi_agent.evaluation.words import SpokenWord, words_path, write_words

# Words with their start and end in seconds, in mono speech [N] at 24 kHz.
Recogniser = Callable[[Samples], Iterable[tuple[str, float, float]]]


def recognise(sample: Sample, recogniser: Recogniser) -> None:
    """Writes `output.json`; of an overlap also the words of both inputs and of the clean output.

    After an interruption the recogniser hears the sound from its end on alone, as in the benchmark.

    Raises:
        AudioError: a sound that is missing or damaged.
        OutputError: a file cannot be written.
    """
    if sample.task == "call":
        return  # nothing of it is measured by words
    event = sample.event_s() if sample.task == "user_interruption" else None
    sounds = ["output"]
    if sample.task == "overlap":
        sounds += ["input"] + (["clean_input", "clean_output"] if "clean_input" in sample.inputs else [])
    for sound in sounds:
        heard = read_audio(sample.folder / f"{sound}.wav")
        words = _words(heard, recogniser, event[1] if event else 0.0)
        write_words(words_path(sample.folder, sound, "recogniser"), words)


def _words(samples: Samples, recogniser: Recogniser, from_s: float) -> list[SpokenWord]:
    heard = np.ascontiguousarray(samples[int(from_s * SAMPLE_RATE_HZ) :])
    if not heard.any():
        return []
    return [
        SpokenWord(text.strip(), round(start_s + from_s, 3), round(end_s + from_s, 3))
        for text, start_s, end_s in recogniser(heard)
    ]
