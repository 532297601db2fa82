"""What the pictures of an evaluation show."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.evaluation.pictures import histogram, word_texts
from moshi_agent.evaluation.words import SpokenWord

PLACE = re.compile(r'x="([\d.]+)" y="(\d+)">([^<]*)<')


def places(words: list[SpokenWord], scale: float) -> list[tuple[float, int, str]]:
    found = [PLACE.search(one) for one in word_texts(words, scale)]
    return [(float(one[1]), int(one[2]), one[3]) for one in found if one is not None]


def test_a_word_that_would_lie_on_another_goes_a_line_further_down() -> None:
    words = [SpokenWord("My", 1.0, 1.2), SpokenWord("name", 1.05, 1.3), SpokenWord("is", 3.0, 3.2)]
    (_, first, _), (_, second, _), (_, third, _) = places(words, 100.0)
    assert first == third < second


@given(st.lists(st.floats(0.3, 1.5), min_size=1, max_size=20), st.floats(40, 120))
def test_words_in_a_natural_pace_do_not_lie_on_each_other(gaps: list[float], scale: float) -> None:
    starts = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    shown = places([SpokenWord("yes", start, start + 0.2) for start in starts], scale)
    assert [word for _, _, word in shown] == ["yes"] * len(starts)
    for line in {y for _, y, _ in shown}:
        in_line = sorted(x for x, y, _ in shown if y == line)
        assert all(later - earlier >= 18 for earlier, later in pairwise(in_line))


def test_a_histogram_has_a_bar_for_every_value() -> None:
    drawn = histogram("latency", [0.1, 0.1, 0.9], "s")
    heights = [float(one) for one in re.findall(r'class="bar"[^>]*height="([\d.]+)"', drawn)]
    assert sorted(height for height in heights if height) == [30.0, 60.0]
