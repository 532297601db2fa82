"""Configurations: what is read is what is written, and nothing is passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moshi_agent.checkpoint.kyutai.config import MOSHI_7B, read_moshi_config, write_moshi_config
from moshi_agent.checkpoint.kyutai.mimi_config import read_mimi_config, write_mimi_config
from moshi_agent.config import SamplingConfig, TransformerConfig
from moshi_agent.errors import ConfigError

_GOLDEN = sorted((Path(__file__).parent / "golden" / "lm").glob("*/config.json"))


@pytest.mark.parametrize("path", _GOLDEN, ids=lambda path: path.parent.name)
def test_written_configurations_read_the_same(path: Path) -> None:
    """Every kind of model survives a round trip through its dictionary."""
    config = read_moshi_config(json.loads(path.read_text()))
    assert read_moshi_config(write_moshi_config(config)) == config


def test_the_published_models_are_the_defaults() -> None:
    """Without a config.json it is the codec and the language model of the first release."""
    mimi, moshi = read_mimi_config(None), read_moshi_config(None)
    assert (mimi.frame_size, mimi.quantizer.n_q, mimi.transformer.context) == (1920, 32, 250)
    assert (moshi.temporal.dim, moshi.temporal.num_layers, moshi.n_q, moshi.dep_q) == (4096, 32, 16, 8)
    assert moshi.temporal.dim_feedforward == 16_896 and moshi.max_delay == 1
    assert read_mimi_config(write_mimi_config(mimi)) == mimi
    assert read_moshi_config(write_moshi_config(moshi)) == moshi


@pytest.mark.parametrize("key", ["dimm", "depformer_dimm", "num_layer"])
def test_an_unknown_key_is_named(key: str) -> None:
    """A misspelt key is an error that names it, not a model that is silently another one."""
    with pytest.raises(ConfigError, match=f"'{key}'"):
        read_moshi_config({**MOSHI_7B, key: 1})
    with pytest.raises(ConfigError, match=f"'{key}'"):
        read_mimi_config({"seanet": {key: 1}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"delays": [0, 1]}, "2 delays"),
        ({"dep_q": 17}, "dep_q=17"),
        ({"num_heads": 31}, "num_heads=31"),
        ({"kv_repeat": 5}, "kv_repeat=5"),
        ({"gating": "swish9"}, "swish9"),
        ({"norm": "batch_norm"}, "batch_norm"),
        ({"causal": False}, "causal"),
        ({"depformer_weights_per_step_schedule": [0, 1]}, "schedule of 2"),
        ({"depformer_dim_feedforward": [8, 8]}, "2 widths"),
        ({"fuser": {"prepend": ["a"]}}, "a condition='a'"),
        ({"conditioners": {"a": {"type": "clap", "clap": {"dim": 3}}}}, "clap"),
    ],
)
def test_values_that_do_not_fit_are_refused(change: dict[str, object], said: str) -> None:
    """The error says which value."""
    with pytest.raises(ConfigError, match=said):
        read_moshi_config({**MOSHI_7B, **change})


def test_sampling_settings_are_checked() -> None:
    """Negative temperatures and shares above one make no sense."""
    for settings in ({"temp": -0.1}, {"top_k_text": -1}, {"top_p": 1.5}):
        with pytest.raises(ConfigError):
            SamplingConfig(**settings)


def test_weight_sets_follow_the_schedule() -> None:
    """Steps share weights as the schedule says."""
    config = TransformerConfig(
        dim=8,
        num_heads=2,
        num_layers=1,
        dim_feedforward=8,
        gating="silu",
        weights_per_step=4,
        weights_per_step_schedule=(0, 1, 1, 2),
    )
    assert config.num_weight_sets == 3
    assert [config.weight_set(step) for step in range(4)] == [0, 1, 1, 2]
