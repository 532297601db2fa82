"""The feed-forward block of a transformer layer: plain, or gated (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.nn import fused
from moshi_agent.nn.linear import Linear
from moshi_agent.nn.packing import PackFormat

Activation = Callable[[Tensor], Tensor]


def _activation(name: str) -> Activation:
    if name == "identity":
        return lambda x: x
    if name in ("sigmoid", "tanh", "relu"):
        return getattr(torch, name)
    return getattr(F, name)


def gated_width(dim: int, dim_feedforward: int) -> int:
    """Computes the hidden width at which a gated block is as large as a plain `dim_feedforward` one."""
    return 21 * dim // 8 if dim_feedforward == 4 * dim else 2 * dim_feedforward // 3


class GatedFeedForward(nn.Module):
    """Computes W_out (activation(W_1 x) * W_2 x); `linear_in` holds W_1 above W_2."""

    def __init__(self, dim: int, dim_feedforward: int, activation: str) -> None:
        super().__init__()
        hidden = gated_width(dim, dim_feedforward)
        self.linear_in = Linear(dim, 2 * hidden)
        self.linear_out = Linear(hidden, dim)
        self.activation = _activation(activation)
        self.is_silu = activation == "silu"

    def forward(self, x: Tensor) -> Tensor:  # [*, C] -> [*, C]
        both = self.linear_in(x)
        if self.is_silu and fused.serves(both):
            return self.linear_out(fused.silu_times(both))
        gate, value = both.chunk(2, dim=-1)
        return self.linear_out(self.activation(gate) * value)

    def pack(self, pack_format: PackFormat, norm: tuple[Tensor, Tensor | None], scale: Tensor | None) -> None:
        """Packs the layers, with the norm before them and the residual scale after them."""
        self.linear_in.pack(pack_format, input_scale=norm[0], input_shift=norm[1])
        self.linear_out.pack(pack_format, output_scale=scale)
