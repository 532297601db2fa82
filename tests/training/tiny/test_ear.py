"""The independent ear: what counts as the same words, and what it is given to hear."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from moshi_agent.audio.framing import Samples
from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.answers import Answer
from moshi_agent.training.tiny.evaluation.ear import (
    Spoken,
    ear_report,
    listen,
    open_ear,
    through_codec,
    written,
)
from moshi_agent.training.tiny.evaluation.spoken_words import RIGHT, similarity, spoken_words
from moshi_agent.training.tiny.speech import Audio
from tests.small_models import small_mimi


@pytest.mark.parametrize(
    ("written_down", "words"),
    [
        ("1, 2, 3", "one two three"),
        ("It's 10:30 now.", "it is ten thirty now"),
        ("at 840", "at eight forty"),
        ("$12.50", "twelve dollars and fifty cents"),
        ("€1", "one euro"),
        ("2 + 2 = 4", "two plus two is four"),
        ("It is spelled M-O-S-H-I.", "it is spelled m o s h i"),
        ("80 milliseconds", "eighty milliseconds"),
        ("I\u2019m", "i am"),
    ],
)
def test_figures_are_the_words_that_are_said(written_down: str, words: str) -> None:
    """Recognisers write numbers, times and money in figures."""
    assert spoken_words(written_down) == words.split()


def test_similarity_is_one_for_the_same_words_and_low_for_others() -> None:
    """One wrong word in seven is understood, half of them is not."""
    said = "To reach the other buffer one day"
    assert similarity(said, "to reach the other buffer, one day!") == 1
    assert RIGHT <= similarity(said, "To reach the other button one day") < 1
    assert similarity(said, "To beach your other button on day") < RIGHT
    assert similarity(said, "") == 0


class Loud:
    """A recogniser that hears how loud it is, and counts how often it is asked."""

    def __init__(self) -> None:
        self.heard: list[Samples] = []

    def __call__(self, samples: Samples, /) -> Iterable[tuple[str, float, float]]:
        self.heard.append(samples)
        word = "yes" if float(np.abs(samples).max()) > 0.5 else "no"
        return [(word, 0.0, 1.0)]


def sound(level: float) -> Audio:
    return np.full(2400, level, np.float32)


def test_the_bot_is_counted_beside_the_teacher() -> None:
    """Each kind has its row, the share is of what is understood of the teacher, and mistakes are listed."""
    recogniser = Loud()
    spoken = [
        Spoken(kind="calls", text="Yes.", bot=sound(0.9), teacher=sound(0.8)),
        Spoken(kind="calls", text="Yes.", bot=sound(0.1), teacher=sound(0.8)),
        Spoken(kind="told", text="No.", bot=sound(0.9), teacher=sound(0.9)),
    ]
    understood = listen(recogniser, spoken)
    assert [one.bot_right for one in understood] == [True, False, False]
    assert [one.teacher_right for one in understood] == [True, True, False]
    assert len(recogniser.heard) == 5  # the teacher's "Yes." once
    report = ear_report(understood)
    assert "calls" in report and "1 of 2" in report and "50.0 %" in report
    assert report.count("heard as") == 1


def test_silence_is_not_given_to_a_recogniser() -> None:
    """Whisper makes up words in it."""
    recogniser = Loud()
    assert written(recogniser, sound(0)) == ""
    assert not recogniser.heard


def test_sentences_go_through_the_codec_whole() -> None:
    """What comes out lasts as long as what went in, and is finite."""
    answer = Answer(text="Yes.", audio=sound(0.1), text_tokens=np.zeros(3, np.int64))
    (spoken,) = through_codec(small_mimi(), [answer], "codec")
    assert len(spoken.bot) >= 2400 and np.isfinite(spoken.bot).all()
    assert spoken.teacher is answer.audio


def test_an_unknown_ear_is_refused() -> None:
    """With the names that are accepted."""
    with pytest.raises(ConfigError, match="whisper"):
        open_ear("no-such-recogniser")
