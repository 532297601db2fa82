"""Finds out which type of number this processor is faster with."""

from __future__ import annotations

import time

import torch
from torch import Tensor


def faster_in_bfloat16() -> bool:
    """Measures whether this processor multiplies faster in bfloat16, as with instructions for it."""
    seconds = [_seconds(torch.ones(1024, 1024, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]
    return seconds[1] < 0.9 * seconds[0]


def _seconds(matrix: Tensor) -> float:
    """Of a product, at best: the first prepares the kernel, and any may have to wait for the processor."""
    taken: list[float] = []
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        taken.append(time.perf_counter() - started)
    return min(taken)
