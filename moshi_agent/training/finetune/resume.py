"""Says which settings of a run have to stay what they were when it goes on from a checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from moshi_agent.training.finetune.config import FineTuneConfig
from moshi_agent.training.runs.settings import flat_values

# What may change: it says where things are, or what is written, and no step depends on it.
_FREE = (
    *("run_dir", "gradient_checkpointing", "param_dtype", "num_microbatches"),
    *("log_freq", "do_ckpt", "ckpt_freq", "num_ckpt_keep", "save_adapters"),
    *("do_eval", "eval_freq", "eval_batches", "sample_freq", "sample_sec", "num_samples"),
    *("turns_freq", "turns_data"),
    *("data.cache", "data.eval_data"),
)


def lasting_settings(config: FineTuneConfig, dtype: torch.dtype, processes: int) -> dict[str, Any]:
    """Lists the settings that every step depends on, as a flat dictionary."""
    values = {key: value for key, value in flat_values(config).items() if key not in _FREE}
    values["param_dtype"] = str(dtype).removeprefix("torch.")
    values["num_microbatches x processes"] = config.num_microbatches * processes
    return values
