"""The memory that conversations take, and what may be left for them."""

from __future__ import annotations

import os

import torch

from moshi_agent.config import KVCache
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.state import State

RESERVED_BYTES = 3 << 30  # of a device, for graphs and for what a step computes with
PROMPT_BYTES = 512 << 20  # of them, for the prompts that are kept


def row_bytes(state: State) -> int:
    """Tells what one row of this state takes."""
    return sum(tensor[0].numel() * tensor.element_size() for tensor in state.tensors())


def temporal_row_bytes(lm: LMModel, kv_int8: bool) -> int:
    """Tells what the temporal transformer's state takes for one conversation. Allocates nothing."""
    return row_bytes(lm.transformer.init_state(1, torch.device("meta"), lm.dtype, kv_int8))


def free_bytes(device: torch.device) -> int:
    """Tells how much of the device's memory is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def choose_kv_int8(kv_cache: KVCache, lm: LMModel, rows: int) -> bool:
    """Tells whether the cache is stored as int8; `auto` does so on CUDA where it would not fit otherwise."""
    if kv_cache != "auto":
        return kv_cache == "int8"
    if lm.device.type != "cuda":
        return False
    return rows * temporal_row_bytes(lm, kv_int8=False) > free_bytes(lm.device) - RESERVED_BYTES
