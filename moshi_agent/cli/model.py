"""The model that a sub-command asks for, on the device that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import torch

from moshi_agent import Conversation, load_checkpoint
from moshi_agent.config import KVCache
from moshi_agent.errors import InputError


class How(TypedDict):
    """Arguments of `Conversation`."""

    greedy: bool
    seed: int | None
    voice: NotRequired[str | Path | None]
    role: NotRequired[str | None]
    cfg_coef: NotRequired[float | None]
    conditions: NotRequired[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class On:
    """Where a model runs and what it takes there."""

    device: str
    threads: int = 1  # of the CPU
    dtype: str | None = None  # of the language model; None is as the device is good at
    kv_cache: KVCache = "auto"
    cuda_graphs: bool = True


def start_conversation(model: str, on: On, how: How, lora: str | None = None) -> Conversation:
    """Loads the model, with its low-rank updates, and starts a conversation.

    Raises:
        InputError: this machine has no such device, or the model takes no such conditions.
        CheckpointError: the model is missing or damaged.
        DeviceFull: the device has no room for it.
    """
    check_device(on.device)
    torch.set_num_threads(on.threads)
    checkpoint = load_checkpoint(model, device=on.device, dtype=on.dtype, pack="auto", lora=lora)
    return Conversation(checkpoint, kv_cache=on.kv_cache, cuda_graphs=on.cuda_graphs, **how)


def check_device(device: str) -> None:
    """Raises InputError unless this machine has the device: `cpu`, `cuda`, `cuda:N` or `mps`."""
    kind, _, number = device.partition(":")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if int(number or 0) >= there[kind]:
        usable = ", ".join(name for name, count in there.items() if count)
        raise InputError(f"there is no device {device} that PyTorch can use here; usable: {usable}")
