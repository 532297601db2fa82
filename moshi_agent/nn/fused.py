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

from moshi_agent.nn.fast_path_switch import is_on

_log = logging.getLogger("moshi_agent.nn")


@cache
def has_triton() -> bool:
    """Tells whether there are any kernels; where something is missing, a warning says what to install."""
    missing = missing_for_triton()
    if missing is not None:
        _log.warning("steps will be slower without Triton's kernels: %s", missing)
    return missing is None


def missing_for_triton() -> str | None:
    """Tells what Triton needs and this machine has not: itself, a C compiler with headers, a folder."""
    if importlib.util.find_spec("triton") is None:
        package = "triton-windows" if os.name == "nt" else "triton"
        return f"there is no Triton (pip install {package})"
    if os.name != "posix":
        return None
    # What launches a kernel is compiled in C, the first time on each machine.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler (apt install gcc)"
    # Debian's own scheme, `posix_local`, has no headers.
    if not Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file():
        return "there are no headers of Python (apt install python3-dev)"
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return f"{folder} cannot be written (set TRITON_CACHE_DIR to a folder that can)"
    return None


def serves(x: Tensor) -> bool:
    """Tells whether the kernels take this tensor: on CUDA, outside training."""
    return x.is_cuda and not torch.is_grad_enabled() and is_on("fused") and has_triton()


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
