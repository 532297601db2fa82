"""The key-value cache of one layer: a ring over positions, in a float type or as int8.

In int8 every vector (one head's key or value of one position) has a scale of its own, its largest
magnitude over 127. That costs two bytes beside the vector's `head_dim`, and keeps the error near
0.7 % of the vector's own size, where float8 with its three bits of mantissa would have 2.6 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127  # of the int8 values in use
LEAST_SCALE = 2.0**-24  # of float16: a smaller scale is stored as zero, and so is its vector
SCALE_DTYPE = torch.float16


@dataclass(frozen=True)
class LayerCache:
    """Reads and writes the keys and values of one layer, as views of a state."""

    values: Tensor  # [B, 2, H_kv, capacity, D] keys, then values; int8 or a float type
    scales: Tensor | None = None  # [B, 2, H_kv, capacity] float16, where `values` is int8

    def read(self, length: int, dtype: torch.dtype) -> Tensor:
        """Reads the first positions, [B, 2, H_kv, L, D], as numbers of that type if they are quantised."""
        values = self.values.narrow(3, 0, length)
        if self.scales is None:
            # Autograd keeps what was read, and the next layer writes to the same storage.
            return values.clone() if values.requires_grad else values
        return dequantize(values, self.scales[:, :, :, :length]).to(dtype)

    def write(self, keys_values: Tensor, rows: Tensor, slots: Tensor) -> None:
        """Writes a chunk, [B, T, 2, H_kv, D], to these slots, [B, T], of these rows, [B, 1]."""
        if self.scales is None:
            if keys_values.requires_grad:
                # Autograd renews a view of what other layers have written to only when it is asked.
                _ = self.values.grad_fn
            self.values[rows, :, :, slots] = keys_values
            return
        values, scales = quantize(keys_values)
        self.values[rows, :, :, slots] = values
        self.scales[rows, :, :, slots] = scales

    def write_lockstep(self, keys_values: Tensor, step: int) -> None:
        """Writes one step that all rows take together, [B, 2, H_kv, 1, D]."""
        self.values.narrow(3, step, 1).copy_(keys_values)


def quantize(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds [*, D] to int8 [*, D] and one float16 scale for each vector, [*]."""
    vectors = vectors.float()
    scales = (vectors.abs().amax(dim=-1) / LARGEST).to(SCALE_DTYPE)
    steps = vectors / scales.float().clamp(min=LEAST_SCALE)[..., None]
    # Half up rather than half to even: what the kernel for CUDA has, too.
    return torch.floor(steps + 0.5).clamp(-LARGEST, LARGEST).to(torch.int8), scales


def dequantize(values: Tensor, scales: Tensor) -> Tensor:
    """Restores nearly what `quantize` was given: int8 [*, D] and scales [*] -> float32 [*, D]."""
    return values.float() * scales.float()[..., None]
