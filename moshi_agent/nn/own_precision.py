"""The precision that a model was loaded in, whatever the program around it has set."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda")


@contextmanager
def own_precision() -> Generator[None]:
    """Sets `torch.autocast` aside: what a checkpoint computes is the same inside of it and outside."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def whole_float32() -> Generator[None]:
    """Has products of float32 computed in float32, whatever `torch.set_float32_matmul_precision` says.

    The setting is the whole process's: for what is chosen once, such as the kernels of a graph.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
