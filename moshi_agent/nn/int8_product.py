"""Products with int8 weights, which are read as they are stored.

On CUDA this is a kernel of its own. By PyTorch's operators a weight is read as int8, written in a float type
and read again: five bytes for each number instead of one, more than bfloat16 weights take.

Libraries that were looked at: PyTorch's `aten::_weight_int8pack_mm` computes on CUDA (since 2.9) one output
in each thread, in float32 alone, with reads that do not coalesce. torchao expands int8 weights as above but
for what `torch.compile` fuses, and here steps are captured by hand. bitsandbytes' LLM.int8 rounds the input
as well, in launches of its own. Marlin-type kernels are built for 4 bits, and permute the weights. None reads
the rows and scales of a checkpoint as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.nn import fused
from moshi_agent.nn.fast_path_switch import is_on

MOST_ROWS = 64  # above, expanding the weight once costs less than reading it for every tile of rows
LARGEST = 127


def serves(x: Tensor) -> bool:
    """Tells whether the kernel takes this input: on CUDA, outside training, few rows at once."""
    if not x.is_cuda or torch.is_grad_enabled() or x.numel() // x.shape[-1] > MOST_ROWS:
        return False
    return is_on("int8 product") and fused.has_triton()


def product(x: Tensor, weight: Tensor, largest: Tensor) -> Tensor:
    """Computes x @ (weight * largest / 127).T in float32, and rounds once.

    Args:
        x: [*, in].
        weight: [out, in] int8.
        largest: [out] float32, the magnitude that 127 stands for in each row.

    Returns:
        [*, out], in the type of x.
    """
    from moshi_agent.nn import int8_product_kernels as kernels

    with torch.cuda.device_of(x):
        y = kernels.product(x.reshape(-1, x.shape[-1]), weight, largest)
    return y.view(*x.shape[:-1], len(weight))


def product_reference(x: Tensor, weight: Tensor, largest: Tensor) -> Tensor:
    """Computes what `product` does in plain PyTorch: the kernel is tested against it."""
    return (F.linear(x.float(), weight.float()) * (largest / LARGEST)).to(x.dtype)


def expanded_product(x: Tensor, weight: Tensor, largest: Tensor) -> Tensor:
    """Computes it in the type of x on an expanded weight; scaling the short output costs the least."""
    return F.linear(x, weight.to(x.dtype)) * (largest / LARGEST).to(x.dtype)
