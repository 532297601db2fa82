# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
"""The Triton kernels of `fused`; imported only where Triton is installed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moshi_agent.nn import counter_random

_BLOCK = 1024  # numbers of one program where a row may be cut
_GOLDEN = tl.constexpr(counter_random.GOLDEN)
_MIX_1 = tl.constexpr(counter_random.MIX_1)
_MIX_2 = tl.constexpr(counter_random.MIX_2)
_OPTIONS = {"enable_fp_fusion": True}  # the default is about to change, and Triton warns of it


@triton.jit
def _silu_times_kernel(
    x,  # [rows, 2 N] contiguous
    output,  # [rows, N], to be written
    numbers,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * block + tl.arange(0, block)
    inside = places < numbers
    gate = tl.load(x + row * 2 * numbers + places, mask=inside, other=0).to(tl.float32)
    value = tl.load(x + row * 2 * numbers + numbers + places, mask=inside, other=0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * value
    tl.store(output + row * numbers + places, y.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _add_and_norm_kernel(
    x,  # [rows, C] contiguous
    change,  # [rows, C] contiguous
    scale,  # [C]
    total,  # [rows, C], to be written
    normed,  # [rows, C], to be written
    numbers,
    eps,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, block)
    inside = places < numbers
    here = row * numbers + places
    y = tl.load(x + here, mask=inside, other=0).to(tl.float32)
    y += tl.load(change + here, mask=inside, other=0).to(tl.float32)
    rounded = y.to(total.dtype.element_ty)
    tl.store(total + here, rounded, mask=inside)
    y = rounded.to(tl.float32)
    mean_square = tl.sum(y * y, axis=0) / numbers
    weight = tl.load(scale + places, mask=inside, other=0).to(tl.float32)
    y *= weight * (1.0 / tl.sqrt(mean_square + eps))
    tl.store(normed + here, y.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _mix(x):
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@triton.jit
def _noise_kernel(
    key,  # [B] int64
    kept,  # [B] int64
    output,  # [B, streams, N], to be written
    first_stream,
    candidates,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    stream = tl.program_id(1).to(tl.int64)
    ranks = tl.program_id(2) * block + tl.arange(0, block)
    of_stream = _mix(tl.load(key + row) * _GOLDEN + first_stream + stream)
    bits = (_mix(of_stream + ranks.to(tl.int64) * _GOLDEN) >> 41) & 0x7FFFFF
    uniform = (bits.to(tl.float32) + 0.5) * 1.1920928955078125e-07  # exact, unlike a division
    y = -tl.log(-tl.log(uniform))
    y = tl.where(ranks < tl.load(kept + row), y, float("-inf"))
    place = (row * tl.num_programs(1) + stream) * candidates + ranks
    tl.store(output + place, y, mask=ranks < candidates)


@triton.jit
def _draw_kernel(
    best,  # [B, N] float32 contiguous
    tokens,  # [B, N] int64 contiguous
    noise,  # [B, N] float32, each row contiguous
    inverse_temp,  # [B]
    top_p,  # [B]
    output,  # [B] int64, to be written
    candidates,
    noise_row,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    ranks = tl.arange(0, block)
    inside = ranks < candidates
    lowest = float("-inf")
    logits = tl.load(best + row * candidates + ranks, mask=inside, other=lowest)
    added = tl.load(noise + row * noise_row + ranks, mask=inside, other=lowest)
    scaled = logits * tl.load(inverse_temp + row)
    kept = tl.where(added == lowest, lowest, scaled)
    shares = tl.exp(kept - tl.max(kept, axis=0))
    shares = shares / tl.sum(shares, axis=0)
    before = tl.cumsum(shares, axis=0) - shares
    limit = tl.load(top_p + row)
    beyond = tl.where(limit > 0.0, before, -1.0) > limit
    score = tl.where(beyond, lowest, scaled + added)
    # Where the numbers are none, the rank must still be one that there is.
    drawn = tl.minimum(tl.argmax(score, axis=0), candidates - 1)
    tl.store(output + row, tl.load(tokens + row * candidates + drawn))


def silu_times(x: Tensor) -> Tensor:
    """Launches the kernel of `fused.silu_times`."""
    x = x.contiguous()
    numbers = x.shape[-1] // 2
    output = torch.empty(*x.shape[:-1], numbers, device=x.device, dtype=x.dtype)
    grid = (x.numel() // x.shape[-1], triton.cdiv(numbers, _BLOCK))
    _silu_times_kernel[grid](x, output, numbers, block=_BLOCK, num_warps=4, **_OPTIONS)
    return output


def add_and_norm(x: Tensor, change: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Launches the kernel of `fused.add_and_norm`."""
    x, change = x.contiguous(), change.contiguous()
    numbers = x.shape[-1]
    total, normed = torch.empty_like(x), torch.empty_like(x)
    block = triton.next_power_of_2(numbers)
    warps = min(16, max(1, block // 256))
    _add_and_norm_kernel[(x.numel() // numbers,)](
        x, change, scale, total, normed, numbers, eps, block=block, num_warps=warps, **_OPTIONS
    )
    return total, normed


def noise(key: Tensor, first_stream: int, streams: int, kept: Tensor, candidates: int) -> Tensor:
    """Launches the kernel of `fused.noise`."""
    assert key.is_contiguous() and kept.is_contiguous()
    output = torch.empty(len(key), streams, candidates, dtype=torch.float32, device=key.device)
    grid = (len(key), streams, triton.cdiv(candidates, _BLOCK))
    _noise_kernel[grid](key, kept, output, first_stream, candidates, block=_BLOCK, num_warps=4, **_OPTIONS)
    return output


def draw(best: Tensor, tokens: Tensor, noise: Tensor, inverse_temp: Tensor, top_p: Tensor) -> Tensor:
    """Launches the kernel of `fused.draw`."""
    batch, candidates = best.shape
    best, tokens = best.contiguous(), tokens.contiguous()
    assert noise.stride(1) == 1 and inverse_temp.stride(0) == top_p.stride(0) == 1
    output = torch.empty(batch, device=best.device, dtype=torch.long)
    _draw_kernel[(batch,)](
        best,
        tokens,
        noise,
        inverse_temp,
        top_p,
        output,
        candidates,
        noise.stride(0),
        block=triton.next_power_of_2(candidates),
        num_warps=4,
        **_OPTIONS,
    )
    return output
