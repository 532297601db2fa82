"""Products with weights of four bits, which are read as they are stored.

A weight is rounded in groups of 64 inputs, each with a scale of its own in float16. The number that is
largest in magnitude becomes -8, whatever its sign; so all sixteen steps are used. That is 4.25 bits a number.

On CUDA this is a kernel of our own, for the reasons of `int8_product` and these: PyTorch's
`aten::_weight_int4pack_mm` takes bfloat16 alone and cards from Ampere on, while cards of 8 GB are often
older; it wants the weight in a layout that is made on the card and has no way back, so a weight could not be
moved; and its tiles are of 16 rows, each reading the weight again. Neither has been
timed on a GPU yet.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.nn import fused
from moshi_agent.nn.fast_path_switch import is_on

GROUP = 64  # inputs that share a scale
BLOCK = 2 * GROUP  # inputs of 64 bytes: the lower halves hold one group, the upper halves the next
MOST_ROWS = 64  # as for int8
_LOWEST = -8
_HIGHEST = 7
_ROWS_AT_ONCE = 4096  # that are rounded: what it takes for that must be there beside all other weights
_LARGEST_SCALE = torch.finfo(torch.float16).max


def num_bytes(inputs: int) -> int:
    """Counts the bytes of a row, whose last block is filled up."""
    return -(-inputs // BLOCK) * GROUP


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds a weight to four bits.

    Args:
        weight: [out, in].

    Returns:
        [out, num_bytes] uint8, and the scale of each group, [groups, out] float16.
    """
    parts = [_quantize(rows) for rows in weight.split(_ROWS_AT_ONCE)]
    return torch.cat([part for part, _ in parts]), torch.cat([scales for _, scales in parts], dim=1)


def _quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    outputs, inputs = weight.shape
    filled = F.pad(weight.float(), (0, 2 * num_bytes(inputs) - inputs))
    groups = filled.view(outputs, -1, GROUP)  # [out, groups, 64]
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = (largest / _LOWEST).clamp(-_LARGEST_SCALE, _LARGEST_SCALE).half()
    steps = groups / torch.where(scales == 0, 1, scales).float()
    halves = steps.round_().clamp_(_LOWEST, _HIGHEST).sub_(_LOWEST).to(torch.uint8)
    low, high = halves.view(outputs, -1, 2, GROUP).unbind(2)
    return (low | high << 4).flatten(1), scales[..., 0].t()


def dequantize(weight: Tensor, scales: Tensor, inputs: int) -> Tensor:
    """Gives what is stored as float32, [out, in]; `weight` and `scales` are as `quantize_groups` has them."""
    outputs = len(weight)
    blocks = weight.view(outputs, -1, 1, GROUP)
    halves = torch.cat([blocks & 15, blocks >> 4], dim=2).view(outputs, -1, GROUP)
    groups = (halves.float() + _LOWEST) * scales.t().float()[..., None]
    return groups.flatten(1)[:, :inputs]


def serves(x: Tensor) -> bool:
    """Tells whether the kernel takes this input: on CUDA, outside training, few rows at once."""
    if not x.is_cuda or torch.is_grad_enabled() or x.numel() // x.shape[-1] > MOST_ROWS:
        return False
    return is_on("int4 product") and fused.has_triton()


def product(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Computes x @ dequantize(weight, scales).T in float32, and rounds once. [*, in] -> [*, out]."""
    from moshi_agent.nn import int4_product_kernels as kernels

    with torch.cuda.device_of(x):
        y = kernels.product(x.reshape(-1, x.shape[-1]), weight, scales)
    return y.view(*x.shape[:-1], len(weight))


def product_reference(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Computes what `product` does in plain PyTorch: the kernel is tested against it."""
    return F.linear(x.float(), dequantize(weight, scales, x.shape[-1])).to(x.dtype)


def expanded_product(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Computes it in the type of x, on a weight that is expanded for it."""
    return F.linear(x, dequantize(weight, scales, x.shape[-1]).to(x.dtype))
