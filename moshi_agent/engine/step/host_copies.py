"""Rows on their way from the device to the host, beside the steps: no frame waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_STAGING_BYTES = 32 << 20  # of pinned memory, through which the copies go piece by piece


class HostCopies:
    """Copies tensors to the host on a stream of its own, through one pinned buffer. Any thread may ask.

    Copied straight into memory that is not pinned, they would hold up the thread and the device together.
    """

    def __init__(self, device: torch.device, staging_bytes: int = _STAGING_BYTES) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._staging_bytes = staging_bytes
        self._staging: Tensor | None = None  # [bytes] uint8
        self._stream: torch.cuda.Stream | None = None

    def prepare(self) -> None:
        """Makes the buffer and the stream: pinning memory makes the device wait, so not while it serves."""
        if self._device.type == "cuda" and self._staging is None:
            self._staging = torch.empty(self._staging_bytes, dtype=torch.uint8, pin_memory=True)
            self._stream = torch.cuda.Stream(self._device, priority=0)  # 0 is the lowest there is

    def take(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies tensors on the device, to which nobody writes any more, to the host."""
        if self._device.type == "cpu":
            return list(tensors)
        with self._lock, torch.inference_mode():
            self.prepare()
            if self._stream is None or self._staging is None:
                return [tensor.cpu() for tensor in tensors]
            # All that has been launched so far, among it what made these tensors.
            self._stream.wait_stream(torch.cuda.default_stream(self._device))
            with torch.cuda.stream(self._stream):
                return [copied(tensor, self._staging, self._stream.synchronize) for tensor in tensors]


def copied(source: Tensor, staging: Tensor, wait: Callable[[], object]) -> Tensor:
    """Copies a tensor to the host, piece by piece through a buffer there.

    Args:
        staging: [bytes] uint8.
        wait: returns when the piece that was asked for last is there.
    """
    target = torch.empty(source.shape, dtype=source.dtype)
    given, taken = _as_bytes(source), _as_bytes(target)
    for first in range(0, len(given), len(staging)):
        piece = given[first : first + len(staging)]
        staged = staging[: len(piece)]
        staged.copy_(piece, non_blocking=True)
        wait()
        taken[first : first + len(piece)] = staged
    return target


def _as_bytes(tensor: Tensor) -> Tensor:
    """[*] -> [bytes] uint8, the same memory where that is contiguous."""
    return tensor.contiguous().flatten().view(torch.uint8)
