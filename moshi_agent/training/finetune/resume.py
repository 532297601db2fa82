"""Whether a run may go on from a checkpoint: its settings have to be those that it began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from moshi_agent.errors import ConfigError
from moshi_agent.training.finetune.config import FineTuneConfig
from moshi_agent.training.settings import flat_values

# What may change: it says where things are, or what is written, and no step depends on it.
_FREE = (
    *("run_dir", "gradient_checkpointing", "param_dtype", "num_microbatches"),
    *("log_freq", "do_ckpt", "ckpt_freq", "num_ckpt_keep", "save_adapters"),
    *("do_eval", "eval_freq", "eval_batches", "sample_freq", "sample_sec", "num_samples"),
    *("data.cache", "data.eval_data"),
)


def lasting_settings(config: FineTuneConfig, dtype: torch.dtype, processes: int) -> dict[str, Any]:
    """The settings that every step depends on, as a flat dictionary."""
    values = {key: value for key, value in flat_values(config).items() if key not in _FREE}
    values["param_dtype"] = str(dtype).removeprefix("torch.")
    values["num_microbatches x processes"] = config.num_microbatches * processes
    return values


def refuse_changes(then: Mapping[str, Any], now: Mapping[str, Any], place: object) -> None:
    """Raises ConfigError naming each setting that is not as it was."""
    changed = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    if changed:
        shown = ", ".join(f"{key}={now.get(key)!r} (it was {then.get(key)!r})" for key in changed)
        raise ConfigError(
            f"the run in {place} began with other settings: {shown}; go on with those, or elsewhere"
        )
