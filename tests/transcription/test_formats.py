"""A transcript in each of its forms."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent import ConfigError
from moshi_agent.text.word_tracker import TimedWord
from moshi_agent.transcription import FORMATS, Pause, TimedPiece, write_transcript

HELLO = [
    TimedPiece(" Hel", 0.4),
    TimedPiece("lo", 0.48),
    TimedPiece(" there.", 0.8),
    TimedWord("Hello", 0.4, 0.8),
    Pause(1.2, 0.91234),
    TimedWord("there.", 0.8, 1.3),
    TimedPiece(" Bye", 3661.5),
    TimedWord("Bye", 3661.5, 3662.25),
]


def written(parts: list[Any], form: str, **facts: Any) -> str:
    file = io.StringIO()
    write_transcript(parts, file, form, **facts)
    return file.getvalue()


def test_text_has_a_line_between_two_pauses() -> None:
    assert written(HELLO, "text") == "Hello there.\nBye\n"


def test_words_that_are_older_than_the_pause_stay_on_their_line() -> None:
    """A pause is told with the audio, and the text is late."""
    parts = [TimedPiece(" one", 0.1), Pause(1.0, 0.9), TimedPiece(" two", 0.9), TimedPiece(" three", 2.0)]
    assert written(parts, "text") == "one two\nthree\n"


def test_json_has_words_pauses_and_what_is_known() -> None:
    assert json.loads(written(HELLO, "json", source="a.wav")) == {
        "source": "a.wav",
        "text": "Hello there. Bye",
        "words": [
            {"word": "Hello", "start": 0.4, "end": 0.8},
            {"word": "there.", "start": 0.8, "end": 1.3},
            {"word": "Bye", "start": 3661.5, "end": 3662.25},
        ],
        "pauses": [{"at": 1.2, "probability": 0.912}],
    }


def test_subrip_numbers_its_subtitles() -> None:
    assert written(HELLO, "srt") == (
        "1\n00:00:00,400 --> 00:00:01,300\nHello there.\n\n2\n01:01:01,500 --> 01:01:02,250\nBye\n\n"
    )


def test_webvtt_has_its_head_and_escapes() -> None:
    parts = [TimedWord("<b>", 0.0, 0.5), TimedWord("&", 0.5, 1.0)]
    assert written(parts, "vtt") == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n&lt;b&gt; &amp;\n\n"


@pytest.mark.parametrize(("form", "nothing"), [("text", ""), ("srt", ""), ("vtt", "WEBVTT\n\n")])
def test_where_nothing_was_said_there_is_nothing(form: str, nothing: str) -> None:
    assert written([], form) == nothing


def test_another_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=", ".join(FORMATS)):
        written([], "docx")


@given(
    st.lists(
        st.tuples(st.text("abc.!", min_size=1, max_size=30), st.floats(0, 3), st.floats(0, 1)), max_size=40
    )
)
def test_subtitles_hold_every_word_in_order_and_are_read_in_time(
    spoken: list[tuple[str, float, float]],
) -> None:
    words, at = [], 0.0
    for text, gap, length in spoken:
        at += gap
        words.append(TimedWord(text, at, at + length))
        at += length
    blocks = [block.split("\n") for block in written(words, "srt").split("\n\n") if block]
    assert [word for _, _, text in blocks for word in text.split()] == [word.word for word in words]
    assert [int(number) for number, _, _ in blocks] == list(range(1, len(blocks) + 1))
    for _, times, text in blocks:
        start, end = (_seconds(clock) for clock in times.split(" --> "))
        assert start <= end
        assert end - start <= 6.002
        assert len(text) <= 84


def _seconds(clock: str) -> float:
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d),(\d{3})", clock)
    assert match
    hours, minutes, seconds, milliseconds = map(int, match.groups())
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
