"""What conversations take of the memory, and when their caches are stored as int8."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moshi_agent.checkpoint.kyutai.config import read_moshi_config
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.step.frame_step import EngineState
from moshi_agent.engine.step.memory import RowPlan, choose_kv_int8, plan_rows, row_bytes, temporal_row_bytes
from moshi_agent.errors import ConfigError, DeviceFull
from moshi_agent.models.generator import Generator
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from tests.small_models import small_lm

_META = torch.device("meta")


@cache
def _moshi_7b() -> LMModel:
    """The original Moshi without any weights."""
    with _META:
        return LMModel(read_moshi_config(None)).to(torch.bfloat16)


def test_a_7b_conversation_takes_half_as_much_with_an_int8_cache() -> None:
    """3000 positions x 32 layers x 32 heads x 128 numbers, twice; in int8 two bytes more for each vector."""
    lm, vectors = _moshi_7b(), 3000 * 32 * 32 * 2
    assert temporal_row_bytes(lm, kv_int8=False) == vectors * 128 * 2 + 8 == 1_572_864_008
    assert temporal_row_bytes(lm, kv_int8=True) == vectors * (128 + 2) + 8 == 798_720_008


def test_the_state_of_a_whole_conversation_is_hardly_more() -> None:
    """The codec adds 16.5 MB, the tokens nothing to speak of; rows are all alike."""
    lm = _moshi_7b()
    with _META:
        mimi = MimiModel()
        generator = Generator(lm)
        states = [EngineState(mimi.init_state(n), generator.init_state(n, kv_int8=True)) for n in (1, 3)]
    assert row_bytes(states[0]) == row_bytes(states[1])
    assert 16.0e6 < row_bytes(states[0]) - temporal_row_bytes(lm, kv_int8=True) < 17.0e6


def test_the_cache_is_stored_as_asked_and_on_a_cpu_as_floats() -> None:
    """`auto` is about the memory of a GPU."""
    lm = small_lm()
    assert choose_kv_int8("int8", lm, 1, has_kernel=False)
    assert not choose_kv_int8("float", lm, 10**9, has_kernel=True)
    assert not choose_kv_int8("auto", lm, 10**9, has_kernel=True)


def _plan(rows: int, free_gb: float, has_kernel: bool = True, copies: int = 1) -> RowPlan:
    return plan_rows(_moshi_7b(), rows, int(free_gb * 1e9), has_kernel, copies)


def test_floats_are_taken_where_they_fit_with_room_to_spare() -> None:
    """Eight conversations of 1.57 GB, and 3 GiB for graphs: 15.8 GB."""
    assert not _plan(8, 15.9).chosen("auto")
    assert _plan(8, 15.7).chosen("auto")
    assert not _plan(8, 15.7).chosen("float")  # it still fits
    assert _plan(8, 60).chosen("int8")
    assert _plan(8, 15.9, copies=2).chosen("auto")


def test_the_cards_that_people_own_hold_the_calls_that_the_report_counted() -> None:
    """Beside 15.8 GB of weights, 0.4 of them the codec's, and half a gigabyte of context."""
    assert _plan(8, 24.1 - 16.3).chosen("auto")  # L4
    assert _plan(8, 25.8 - 16.3).most_rows(int8=True) == 10  # 4090
    assert _plan(160, 150.75 - 17.5).chosen("auto")  # H200


def test_who_does_not_fit_is_told_how_many_would() -> None:
    with pytest.raises(DeviceFull) as refused:
        _plan(8, 4.1 + 0.67).chosen("auto")
    assert str(refused.value).startswith(
        "capacity=8 needs 6.4 GB, 4.1 GB are free: at most 5 fit; accepted: capacity=5, weights of fewer bits"
    )
    with pytest.raises(DeviceFull, match="not one fits; accepted: weights of fewer bits"):
        _plan(1, 1.0).chosen("auto")
    with pytest.raises(
        DeviceFull, match=r"at most 4 fit; accepted: capacity=4, kv_cache='int8' \(at most 9 fit"
    ):
        _plan(8, 8.0).chosen("float")


def test_without_the_kernel_floats_are_taken_and_the_missing_package_is_named() -> None:
    """Expanded in every step an int8 cache would cost twenty times the traffic."""
    assert not _plan(8, 14.0, has_kernel=False).chosen("auto")
    with pytest.raises(DeviceFull, match=r"at most 5 fit; .*apt install gcc python3-dev"):
        _plan(8, 9.0, has_kernel=False).chosen("auto")
    assert _plan(8, 9.0, has_kernel=False).chosen("int8")  # as asked


@settings(max_examples=100)
@given(rows=st.integers(1, 400), free=st.integers(0, 200 << 30), kernel=st.booleans(), int8=st.booleans())
def test_as_many_are_taken_as_the_refusal_says(rows: int, free: int, kernel: bool, int8: bool) -> None:
    sizes: dict[str, Any] = {"float_bytes": 1_572_864_008, "int8_bytes": 798_720_008, "layers": 32}
    plan = RowPlan(rows=rows, free_bytes=free, has_kernel=kernel, **sizes)
    kind = "int8" if int8 else "float"
    if plan.most_rows(int8) >= rows:
        assert plan.chosen(kind) == int8
        return
    with pytest.raises(DeviceFull):
        plan.chosen(kind)
    if plan.most_rows(int8):
        replace(plan, rows=plan.most_rows(int8)).chosen(kind)


def test_another_storage_is_refused_before_anything_is_loaded() -> None:
    """By the engine's configuration, with what is accepted."""
    with pytest.raises(ConfigError, match="accepted: auto, float, int8"):
        EngineConfig(kv_cache="fp8")  # type: ignore[arg-type]
