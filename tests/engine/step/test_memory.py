"""What conversations take of the memory, and when their caches are stored as int8."""

from __future__ import annotations

import pytest
import torch

from moshi_agent.checkpoint.kyutai.config import read_moshi_config
from moshi_agent.engine.config import EngineConfig
from moshi_agent.engine.step.frame_step import EngineState
from moshi_agent.engine.step.memory import choose_kv_int8, row_bytes, temporal_row_bytes
from moshi_agent.errors import ConfigError
from moshi_agent.models.generator import Generator
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from tests.small_models import small_lm

_META = torch.device("meta")


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
    assert choose_kv_int8("int8", lm, rows=1)
    assert not choose_kv_int8("float", lm, rows=10**9)
    assert not choose_kv_int8("auto", lm, rows=10**9)


def test_another_storage_is_refused_before_anything_is_loaded() -> None:
    """By the engine's configuration, with what is accepted."""
    with pytest.raises(ConfigError, match="accepted: auto, float, int8"):
        EngineConfig(kv_cache="fp8")  # type: ignore[arg-type]
