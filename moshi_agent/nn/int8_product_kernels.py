# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
"""The Triton kernels of `int8_product`; imported only where Triton is installed."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

OUTPUTS = 32  # of one program
INPUTS = 128  # that it takes at once
WARPS = 4
STAGES = 3
_WANTED_PROGRAMS = 512  # several for each multiprocessor; with fewer outputs, their inputs are split
_LEAST_SPLIT = 512  # inputs that are worth a program
OPTIONS = {"enable_fp_fusion": True}  # the default is about to change, and Triton warns of it


@triton.jit
def _product_kernel(
    x,  # [rows, in] contiguous
    weight,  # [out, in] int8 contiguous
    largest,  # [out] float32
    output,  # [splits, rows, out]: the output where splits is 1, else sums in float32
    rows,
    outputs,
    inputs,
    of_split,  # inputs, a multiple of `block_inputs`
    block_rows: tl.constexpr,
    block_outputs: tl.constexpr,
    block_inputs: tl.constexpr,
    is_whole: tl.constexpr,
    stages: tl.constexpr,
):
    columns = tl.program_id(0) * block_outputs + tl.arange(0, block_outputs)
    lines = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    split = tl.program_id(2)
    places = tl.arange(0, block_inputs)
    first = split * of_split
    last = tl.minimum(first + of_split, inputs)
    sums = tl.zeros([block_outputs, block_rows], tl.float32)
    from_weight = weight + columns[:, None].to(tl.int64) * inputs + places[None, :]
    from_x = x + lines[None, :].to(tl.int64) * inputs + places[:, None]
    for start in tl.range(first, last, block_inputs, num_stages=stages):
        inside = start + places < last
        numbers = tl.load(from_weight + start, mask=(columns[:, None] < outputs) & inside[None, :], other=0)
        given = tl.load(from_x + start, mask=(lines[None, :] < rows) & inside[:, None], other=0)
        sums = tl.dot(numbers.to(given.dtype), given, sums, input_precision="ieee")
    if is_whole:
        sums *= (tl.load(largest + columns, mask=columns < outputs, other=0) * (1.0 / 127))[:, None]
    here = (
        output
        + split.to(tl.int64) * rows * outputs
        + lines[None, :].to(tl.int64) * outputs
        + columns[:, None]
    )
    tl.store(
        here, sums.to(output.dtype.element_ty), mask=(lines[None, :] < rows) & (columns[:, None] < outputs)
    )


@triton.jit
def _combine_kernel(
    sums,  # [splits, rows, out] float32
    largest,  # [out] float32
    output,  # [rows, out], to be written
    rows,
    outputs,
    splits: tl.constexpr,
    block: tl.constexpr,
    is_scaled: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < outputs
    total = tl.zeros([block], tl.float32)
    for split in tl.static_range(splits):
        total += tl.load(sums + (split * rows + row) * outputs + columns, mask=inside, other=0)
    if is_scaled:
        total *= tl.load(largest + columns, mask=inside, other=0) * (1.0 / 127)
    tl.store(output + row * outputs + columns, total.to(output.dtype.element_ty), mask=inside)


def choose_splits(outputs: int, rows: int, inputs: int) -> tuple[int, int]:
    """Chooses into how many parts the inputs are split, and how many each has, to keep a device busy."""
    programs = _parts(outputs, OUTPUTS) * _parts(rows, choose_block_rows(rows))
    splits = max(1, min(_WANTED_PROGRAMS // programs, inputs // _LEAST_SPLIT))
    of_split = _parts(_parts(inputs, splits), INPUTS) * INPUTS
    return _parts(inputs, of_split), of_split


def _parts(size: int, of: int) -> int:
    return -(-size // of)


def choose_block_rows(rows: int) -> int:
    """Chooses how many rows a program takes: a tensor core takes 16 at least."""
    return 16 if rows <= 16 else 32 if rows <= 32 else 64


def product(x: Tensor, weight: Tensor, largest: Tensor) -> Tensor:
    """As `int8_product.product`, x: [rows, in]."""
    x = x.contiguous()
    (rows, inputs), outputs = x.shape, len(weight)
    splits, of_split = choose_splits(outputs, rows, inputs)
    block_rows = choose_block_rows(rows)
    output = x.new_empty(rows, outputs)
    sums = output if splits == 1 else x.new_empty(splits, rows, outputs, dtype=torch.float32)
    grid = (triton.cdiv(outputs, OUTPUTS), triton.cdiv(rows, block_rows), splits)
    _product_kernel[grid](
        x,
        weight,
        largest,
        sums,
        rows,
        outputs,
        inputs,
        of_split,
        block_rows,
        OUTPUTS,
        INPUTS,
        splits == 1,
        STAGES,
        num_warps=WARPS,
        **OPTIONS,
    )
    if splits > 1:
        combine(sums, largest, output)
    return output


def combine(sums: Tensor, largest: Tensor | None, output: Tensor) -> None:
    """Adds what the parts of the inputs came to.

    Args:
        sums: [splits, rows, out] float32.
        largest: [out] float32, what 127 stands for; None for sums that are scaled already.
        output: [rows, out], to be written.
    """
    splits, rows, outputs = sums.shape
    block = min(1024, triton.next_power_of_2(outputs))
    grid = (rows, triton.cdiv(outputs, block))
    is_scaled = largest is not None
    scale = sums if largest is None else largest  # a kernel wants some address, read or not
    arguments: tuple[Any, ...] = (sums, scale, output, rows, outputs, splits, block, is_scaled)
    _combine_kernel[grid](*arguments, **OPTIONS)
