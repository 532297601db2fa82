"""The model that a sub-command asks for, on the device that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

import torch

from moshi_agent import Conversation, load_checkpoint
from moshi_agent.errors import InputError


class How(TypedDict):
    """Arguments of `Conversation`."""

    greedy: bool
    seed: int | None
    voice: NotRequired[str | Path | None]
    role: NotRequired[str | None]
    cfg_coef: NotRequired[float | None]
    conditions: NotRequired[Mapping[str, str]]


def start_conversation(
    model: str, device: str, threads: int, how: How, lora: str | None = None
) -> Conversation:
    """Loads the model, with its low-rank updates, and starts a conversation, on so many threads of the CPU.

    Raises:
        InputError: this machine has no such device, or the model takes no such conditions.
        CheckpointError: the model is missing or damaged.
    """
    check_device(device)
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(model, device=device, pack="auto", lora=lora)
    return Conversation(checkpoint, **how)


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
