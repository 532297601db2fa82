"""What is played of what comes, sample by sample."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent_adapters.talk.player import Player
from moshi_agent_adapters.talk.screen import level_bar

RATE = 1000  # 10 samples are 10 ms


def _loud(count: int, start: int = 1) -> NDArray[np.float32]:
    return (np.arange(start, start + count) / 10_000 + 0.1).astype(np.float32)


def test_it_begins_when_there_is_enough_and_plays_everything_in_order() -> None:
    player = Player(RATE, start_ms=50)
    player.push(_loud(40))
    assert not player.pull(20).any()
    player.push(_loud(40, start=41))
    assert np.array_equal(player.pull(37), _loud(37))
    assert np.array_equal(player.pull(43), _loud(43, start=38))
    assert player.skipped_ms == 0


def test_having_run_dry_it_waits_for_enough_again() -> None:
    player = Player(RATE, start_ms=50)
    player.push(_loud(50))
    assert np.count_nonzero(player.pull(80)) == 50
    assert player.underruns == 1
    player.push(_loud(40))
    assert not player.pull(10).any()
    player.push(_loud(10))
    assert player.pull(10).all()


def test_late_it_skips_what_is_quiet_and_nothing_else() -> None:
    player = Player(RATE, start_ms=50, late_ms=100)
    player.push(np.concatenate([_loud(50), np.zeros(200, np.float32), _loud(50)]))
    played = player.pull(1000)
    assert np.array_equal(played[played != 0], np.concatenate([_loud(50), _loud(50)]))
    assert player.skipped_ms == 140  # the rest of the silence is within what may wait
    assert len(np.flatnonzero(played)) == 100


def test_very_late_it_skips_whatever_is_first() -> None:
    player = Player(RATE, start_ms=50, late_ms=100, longest_ms=200)
    player.push(_loud(1000))
    assert np.array_equal(player.pull(10), _loud(10, start=801 - 10))
    assert player.waiting_ms <= 200


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=30))
def test_nothing_is_played_twice_or_out_of_order(steps: list[tuple[int, int]]) -> None:
    player = Player(RATE, start_ms=50)
    pushed, played = 0, np.empty(0, np.float32)
    for push, pull in steps:
        player.push(_loud(push, start=pushed + 1))
        pushed += push
        out = player.pull(pull)
        assert len(out) == pull
        played = np.concatenate([played, out[out != 0]])
    assert (np.diff(played) > 0).all()


def test_cleared_it_plays_nothing_of_what_was() -> None:
    player = Player(RATE, start_ms=50)
    player.push(_loud(105))
    player.pull(3)
    player.clear()
    player.push(_loud(50, start=5000))
    assert player.pull(1)[0] == _loud(1, start=5000)[0]


def test_bars_are_as_long_as_samples_are_loud() -> None:
    assert level_bar(np.zeros(100, np.float32)) == ".........."
    assert level_bar(np.ones(100, np.float32)) == "##########"
    assert level_bar(np.full(100, 10 ** (-30 / 20), np.float32)) == "#####....."
    assert level_bar(np.empty(0, np.float32)) == ".........."
