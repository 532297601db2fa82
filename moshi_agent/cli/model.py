"""The model that a sub-command asks for, on the device that it asks for."""

from __future__ import annotations

import torch

from moshi_agent import Conversation, load_checkpoint
from moshi_agent.errors import InputError


def start_conversation(
    model: str, device: str, threads: int, *, greedy: bool, seed: int | None
) -> Conversation:
    """Loads the model and starts a conversation with it, on so many threads of the CPU.

    Raises:
        InputError: this machine has no such device.
        CheckpointError: the model is missing or damaged.
    """
    check_device(device)
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(model, device=device, pack="auto")
    return Conversation(checkpoint, greedy=greedy, seed=seed)


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
