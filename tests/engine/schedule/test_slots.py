"""Rows of the batch: the live conversations fill the first ones, whatever comes and goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.engine.schedule.slots import Move, Slots
from moshi_agent.errors import EngineFull

# Each number takes a row for a new conversation, or releases the live one it points at.
COMINGS_AND_GOINGS = st.lists(st.one_of(st.just("take"), st.integers(0, 15)), max_size=60)


@given(COMINGS_AND_GOINGS, st.integers(1, 8))
def test_a_batch_that_follows_the_moves_holds_each_conversation_in_its_row(
    script: list[str | int], capacity: int
) -> None:
    slots = Slots[int](capacity)
    batch: list[int | None] = [None] * capacity
    for number, act in enumerate(script):
        live = list(slots)
        if act == "take" and len(live) == capacity:
            with pytest.raises(EngineFull, match=f"{capacity} conversations, capacity {capacity}"):
                slots.claim(number)
        elif act == "take":
            row = slots.claim(number)
            assert batch[row] is None
            batch[row] = number
        elif live:
            leaver = live[int(act) % len(live)]
            batch[slots.row_of(leaver)] = None
            move = slots.release(leaver)
            if move is not None:
                assert batch[move.target] is None
                batch[move.target], batch[move.source] = batch[move.source], None
            assert leaver not in slots
        rows = list(slots)
        assert batch == rows + [None] * (capacity - len(rows))
        assert len(slots) == len(rows) == len(set(rows))
        assert [slots.row_of(key) for key in rows] == list(range(len(rows)))
        assert [slots.key_at(row) for row in range(len(rows))] == rows


@given(st.integers(1, 8), st.data())
def test_only_the_last_row_moves_and_only_into_the_gap(live: int, data: st.DataObject) -> None:
    slots = Slots[int](8)
    assert [slots.claim(key) for key in range(live)] == list(range(live))
    gap = data.draw(st.integers(0, live - 1))
    expected = None if gap == live - 1 else Move(source=live - 1, target=gap)
    assert slots.release(gap) == expected


def test_a_conversation_gets_one_row() -> None:
    slots = Slots[str](2)
    slots.claim("a")
    with pytest.raises(ValueError, match="'a' has row 0 already"):
        slots.claim("a")
    assert list(slots) == ["a"]


def test_what_has_no_row_is_named() -> None:
    slots = Slots[str](2)
    slots.claim("a")
    with pytest.raises(KeyError, match="b"):
        slots.release("b")
    with pytest.raises(KeyError, match="b"):
        slots.row_of("b")
    for row in (1, -1):
        with pytest.raises(IndexError, match=f"row {row} is free: 1 rows are taken"):
            slots.key_at(row)
    assert list(slots) == ["a"]


def test_a_batch_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row, not 0"):
        Slots[str](0)
