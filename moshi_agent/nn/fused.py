"""Small operations of a step that CUDA has in one kernel each, rather than one for every operator.

With one conversation a step is some two thousand kernels that have next to nothing to compute, and what each
takes to begin adds up to as much as all the weights take to be read. On a CPU, in training and without Triton
the same is done by PyTorch's operators, where they are used.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_log = logging.getLogger("moshi_agent.nn")


@cache
def has_triton() -> bool:
    """Tells whether there are any kernels: Triton, and the compiler with which it launches them."""
    if importlib.util.find_spec("triton") is None:
        return False
    if os.name != "posix":
        return True
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    # Debian's own scheme, `posix_local`, has no headers.
    headers = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file()
    if not (compiler and headers):
        _log.warning("steps will be slower: Triton needs a C compiler and Python's headers (python3-dev)")
        return False
    return True


def serves(x: Tensor) -> bool:
    """Tells whether the kernels take this tensor: on CUDA, outside training."""
    return x.is_cuda and not torch.is_grad_enabled() and has_triton()


def silu_times(x: Tensor) -> Tensor:
    """Computes silu(a) * b of the halves a and b of each row. [*, 2 N] -> [*, N]."""
    from moshi_agent.nn import fused_kernels as kernels

    with torch.cuda.device_of(x):
        return kernels.silu_times(x)


def add_and_norm(x: Tensor, change: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Computes x + change, and its RMS norm in float32. [*, C], [*, C], [C] -> both [*, C]."""
    from moshi_agent.nn import fused_kernels as kernels

    with torch.cuda.device_of(x):
        return kernels.add_and_norm(x, change, scale, eps)


def noise(key: Tensor, first_stream: int, streams: int, kept: Tensor, candidates: int) -> Tensor:
    """Makes the noise of `sampling.noise_reference`, nearly to the bit. key, kept: [B] -> [B, streams, N]."""
    from moshi_agent.nn import fused_kernels as kernels

    with torch.cuda.device_of(key):
        return kernels.noise(key, first_stream, streams, kept, candidates)


def draw(best: Tensor, tokens: Tensor, noise: Tensor, inverse_temp: Tensor, top_p: Tensor) -> Tensor:
    """Draws the token with the best sum of logit and noise, among those that hold `top_p`.

    Args:
        best: [B, N] float32 logits, descending.
        tokens: [B, N] int64.
        noise: [B, N] float32, minus infinity for what is not to be drawn.
        inverse_temp, top_p: [B] float32; a `top_p` of 0 drops nothing.

    Returns:
        [B] int64.
    """
    from moshi_agent.nn import fused_kernels as kernels

    with torch.cuda.device_of(best):
        return kernels.draw(best, tokens, noise, inverse_temp, top_p)
