"""Words over speech: whole, in order, inside it; and how exact that is."""

from __future__ import annotations

import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.training.annotation.speech_spans import Span, speech_spans
from moshi_agent.training.annotation.spreading import spread, spread_cues
from moshi_agent.training.annotation.transcripts import Cue
from tests.training.annotation.spoken_material import call

flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite makes the speech")

WORDS = st.lists(st.text("abcdefg'", min_size=1, max_size=12), max_size=30)


@st.composite
def _spans(draw: st.DrawFn) -> list[Span]:
    times = sorted(draw(st.lists(st.integers(0, 10_000), max_size=12, unique=True)))
    return [Span(start / 100, end / 100) for start, end in zip(times[::2], times[1::2], strict=False)]


@given(WORDS, _spans())
def test_every_word_is_once_in_order_and_in_speech(words: list[str], spans: list[Span]) -> None:
    placed = spread(words, spans)
    assert [word.word for word in placed] == (words if spans else [])
    for before, after in pairwise(placed):
        assert before.end_s <= after.start_s + 1e-9
    for _, start_s, end_s in placed:
        assert start_s < end_s
        assert any(span.start_s <= start_s + 1e-9 and end_s <= span.end_s + 1e-9 for span in spans)


@given(st.lists(WORDS, max_size=5), _spans())
def test_lines_lose_no_word(lines: list[list[str]], spans: list[Span]) -> None:
    cues = [Cue(" ".join(line)) for line in lines if line]
    placed = spread_cues(cues, spans)
    assert [word.word for word in placed] == ([word for line in lines for word in line] if spans else [])


def test_the_longest_pauses_part_the_lines() -> None:
    spans = [Span(0, 1), Span(1.2, 2), Span(5, 6)]
    placed = spread_cues([Cue("one two three four"), Cue("five")], spans)
    assert [word.word for word in placed if word.start_s < 3] == ["one", "two", "three", "four"]
    assert placed[-1] == ("five", 5, 6)


def test_a_cue_has_the_speech_between_its_times() -> None:
    spans = [Span(1, 2), Span(4, 5)]
    cues = [Cue("hello", 0.5, 2.5), Cue("what the user says", 2.6, 3.5), Cue("bye", 4.5, 9)]
    assert spread_cues(cues, spans) == [("hello", 1, 2), ("bye", 4.5, 5)]


@flite
def test_speech_is_found_where_it_is() -> None:
    samples, words = call("Hello there.", "My name is Moshi.")
    first, second = speech_spans(samples, bridge_s=0.5)
    assert first.start_s == pytest.approx(words[0][1], abs=0.06)
    assert first.end_s == pytest.approx(words[1][2], abs=0.12)
    assert second.start_s == pytest.approx(words[2][1], abs=0.06)
    assert second.end_s == pytest.approx(words[-1][2], abs=0.12)
    assert speech_spans(np.zeros(0, np.float32)) == speech_spans(np.zeros(48_000, np.float32)) == []


@flite
def test_spread_words_are_a_fraction_of_a_second_off() -> None:
    lines = [
        "It is nice to talk with you.",
        "One, two, three, four, five.",
        "Goodbye! Talk to you again soon.",
    ]
    samples, words = call(*lines)
    placed = spread_cues([Cue(line) for line in lines], speech_spans(samples))
    off_s = [abs(word.start_s - truth[1]) for word, truth in zip(placed, words, strict=True)]
    assert [word.word for word in placed] == [word for word, _, _ in words]
    assert np.median(off_s) < 0.15
    assert max(off_s) < 0.5
