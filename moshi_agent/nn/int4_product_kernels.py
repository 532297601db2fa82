# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
"""The Triton kernel of `int4_product`; imported only where Triton is installed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moshi_agent.nn.int4_product import BLOCK, GROUP
from moshi_agent.nn.int8_product_kernels import (
    OPTIONS,
    OUTPUTS,
    STAGES,
    WARPS,
    choose_block_rows,
    choose_splits,
    combine,
)


@triton.jit
def _product_kernel(
    x,  # [rows, in] contiguous
    weight,  # [out, row_bytes] uint8 contiguous
    scales,  # [groups, out] float16 contiguous
    output,  # [splits, rows, out]: the output where splits is 1, else sums in float32
    rows,
    outputs,
    inputs,
    row_bytes,
    of_split,  # bytes, a multiple of `group`
    block_rows: tl.constexpr,
    block_outputs: tl.constexpr,
    group: tl.constexpr,
    stages: tl.constexpr,
):
    columns = tl.program_id(0) * block_outputs + tl.arange(0, block_outputs)
    lines = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    split = tl.program_id(2)
    places = tl.arange(0, group)
    first = split * of_split
    last = tl.minimum(first + of_split, row_bytes)
    has_column, has_line = columns < outputs, lines < rows
    sums = tl.zeros([block_outputs, block_rows], tl.float32)
    from_weight = weight + columns[:, None].to(tl.int64) * row_bytes + places[None, :]
    from_x = x + lines[None, :].to(tl.int64) * inputs
    for start in tl.range(first, last, group, num_stages=stages):
        pairs = tl.load(from_weight + start, mask=has_column[:, None], other=0)
        # 64 bytes are two groups: one in their lower halves, the other in their upper ones.
        low = 2 * start + places
        high = low + group
        given_low = tl.load(from_x + low[:, None], mask=has_line[None, :] & (low < inputs)[:, None], other=0)
        given_high = tl.load(
            from_x + high[:, None], mask=has_line[None, :] & (high < inputs)[:, None], other=0
        )
        of_group = scales + (2 * start // group) * outputs + columns
        scale_low = tl.load(of_group, mask=has_column, other=0).to(tl.float32)
        scale_high = tl.load(of_group + outputs, mask=has_column, other=0).to(tl.float32)
        steps_low = ((pairs & 15).to(tl.int8) - 8).to(given_low.dtype)
        steps_high = ((pairs >> 4).to(tl.int8) - 8).to(given_low.dtype)
        sums += tl.dot(steps_low, given_low, input_precision="ieee") * scale_low[:, None]
        sums += tl.dot(steps_high, given_high, input_precision="ieee") * scale_high[:, None]
    here = (
        output
        + split.to(tl.int64) * rows * outputs
        + lines[None, :].to(tl.int64) * outputs
        + columns[:, None]
    )
    tl.store(here, sums.to(output.dtype.element_ty), mask=has_line[None, :] & has_column[:, None])


def product(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """As `int4_product.product`, x: [rows, in]."""
    x = x.contiguous()
    (rows, inputs), (outputs, row_bytes) = x.shape, weight.shape
    splits, of_split = choose_splits(outputs, rows, inputs)
    assert of_split % BLOCK == 0
    block_rows = choose_block_rows(rows)
    output = x.new_empty(rows, outputs)
    sums = output if splits == 1 else x.new_empty(splits, rows, outputs, dtype=torch.float32)
    grid = (triton.cdiv(outputs, OUTPUTS), triton.cdiv(rows, block_rows), splits)
    _product_kernel[grid](
        x,
        weight,
        scales,
        sums,
        rows,
        outputs,
        inputs,
        row_bytes,
        of_split // 2,
        block_rows,
        OUTPUTS,
        GROUP,
        STAGES,
        num_warps=WARPS,
        **OPTIONS,
    )
    if splits > 1:
        combine(sums, None, output)
    return output
