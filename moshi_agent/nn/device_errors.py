"""What an error of the device means: for the conversation that met it, or for everybody."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from moshi_agent.errors import DeviceFull, MoshiAgentError

# After one of these every later call of the process fails too: the documentation of `cudaError_t` says that
# the process must be terminated and relaunched. The last is what CUDA gives for what it has no name for, such
# as a GPU that has fallen off the bus.
_FINAL = (
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "the launch timed out and was terminated",
    "unspecified launch failure",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "hardware stack error",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected",
    "driver shutting down",
    "unknown error",
)
_NO_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # PyTorch's allocator for the CPU
)


def is_final(error: BaseException) -> bool:
    """Tells whether the device serves this process no more, whatever is tried."""
    said = str(error)
    return isinstance(error, RuntimeError) and "CUDA" in said and any(text in said for text in _FINAL)


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether the device had no memory left: it serves on, and only what was asked for is missing."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(text in said for text in _NO_MEMORY)


def is_of_one(error: BaseException) -> bool:
    """Tells whether an error concerns only the conversation that was being served: all others can go on."""
    return isinstance(error, MoshiAgentError) or is_out_of_memory(error)


@contextmanager
def memory_for(what: str, accepted: Callable[[], str] | str = "fewer conversations") -> Generator[None]:
    """Raises DeviceFull where memory ends in this block, which says what it was for and what may help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = accepted if isinstance(accepted, str) else accepted()
        raise DeviceFull(f"the device has no memory left for {what}; accepted: {advice}") from error
