# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false
"""The Triton kernels of `cache_attention`; imported only where Triton is installed.

Flash-decoding (Dao et al. 2023): the cache is cut into chunks, each attended to by a program of its
own, and the partial results are combined. Softmax runs online (Milakov and Gimelshein 2018,
arXiv:1805.02867), once for each lane of a block, so that the loop needs no exchange between threads.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from moshi_agent.nn.kv_cache import LayerCache

# How `_attend_kernel` is cut and launched; tests/benchmarks/on_gpu.py times others.
BLOCK_NUMBERS = 4096  # of one block of keys: positions times head_dim
WARPS = 4
STAGES = 3  # blocks on their way from memory at once
_OPTIONS = {"enable_fp_fusion": True}  # the default is about to change, and Triton warns of it
_LOWEST = tl.constexpr(-1e30)  # below every score, and finite: the difference of two of them is 0


@triton.jit
def _store_kernel(
    heads,  # [B, H + 2 H_kv, D], each row contiguous: queries, keys, values
    rotation,  # [B, D / 2, 2] float32, the cosine and sine for each pair of numbers
    slots,  # [B]
    queries,  # [B, H, D], to be written
    cache,  # [B, 2 H_kv, capacity, D]
    scales,  # [B, 2 H_kv, capacity]
    given_row,
    cache_row,
    cache_head,
    scales_row,
    scales_head,
    first_head,
    num_queries,
    num_rotated,
    pairs: tl.constexpr,
    interleaved: tl.constexpr,
    rotated: tl.constexpr,
    quantized: tl.constexpr,
):
    # 64-bit: a row of a large model's state is so long that three of them are beyond 2^31 numbers.
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) + first_head
    lanes = tl.arange(0, pairs)
    firsts = 2 * lanes if interleaved else lanes
    seconds = firsts + 1 if interleaved else lanes + pairs
    given = heads + row * given_row + head * 2 * pairs
    x = tl.load(given + firsts).to(tl.float32)
    y = tl.load(given + seconds).to(tl.float32)
    if rotated:
        turns = (lanes >= 0) & (head < num_rotated)  # the values stay as they are
        angle = rotation + (row * pairs + lanes) * 2
        cosine = tl.load(angle, mask=turns, other=1.0)
        sine = tl.load(angle + 1, mask=turns, other=0.0)
        turned = x * cosine - y * sine
        y = (x * sine + y * cosine).to(heads.dtype.element_ty).to(tl.float32)
        x = turned.to(heads.dtype.element_ty).to(tl.float32)
    if head < num_queries:
        target = queries + (row * num_queries + head) * 2 * pairs
        tl.store(target + firsts, x.to(queries.dtype.element_ty))
        tl.store(target + seconds, y.to(queries.dtype.element_ty))
    else:
        slot = tl.load(slots + row)
        kv_head = head - num_queries
        if quantized:
            largest = tl.maximum(tl.max(tl.abs(x), axis=0), tl.max(tl.abs(y), axis=0))
            scale = (largest / 127.0).to(tl.float16)
            tl.store(scales + row * scales_row + kv_head * scales_head + slot, scale)
            divisor = tl.maximum(scale.to(tl.float32), 5.9604644775390625e-08)
            x = tl.minimum(tl.maximum(tl.floor(x / divisor + 0.5), -127.0), 127.0)
            y = tl.minimum(tl.maximum(tl.floor(y / divisor + 0.5), -127.0), 127.0)
        place = cache + row * cache_row + kv_head * cache_head + slot * 2 * pairs
        tl.store(place + firsts, x.to(cache.dtype.element_ty))
        tl.store(place + seconds, y.to(cache.dtype.element_ty))


@triton.jit
def _attend_kernel(
    queries,  # [B, H, D], each row contiguous
    cache,  # [B, 2, H_kv, capacity, D]
    scales,  # [B, 2, H_kv, capacity]
    filled,  # [B] int32
    sums,  # [B, H, splits, D] float32, to be written; not yet divided by the weights
    peaks,  # [B, H, splits] float32, to be written
    weights,  # [B, H, splits] float32, to be written
    query_row,
    cache_row,
    cache_kind,
    cache_head,
    scales_row,
    scales_kind,
    scales_head,
    score_scale,
    heads_per_kv,
    chunk,
    head_dim: tl.constexpr,
    block: tl.constexpr,
    stages: tl.constexpr,
    quantized: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    result = (row * tl.num_programs(1) + head) * tl.num_programs(2) + split
    dims = tl.arange(0, head_dim)
    lanes = tl.arange(0, block)
    first = split * chunk
    last = tl.minimum(first + chunk, tl.load(filled + row))
    # Scores in units of ln 2, for exp2 is what the device computes.
    query = tl.load(queries + row * query_row + head * head_dim + dims).to(tl.float32)
    query = query * score_scale
    keys = cache + row * cache_row + (head // heads_per_kv) * cache_head
    values = keys + cache_kind
    key_scales = scales + row * scales_row + (head // heads_per_kv) * scales_head
    value_scales = key_scales + scales_kind
    peak = tl.full([block], _LOWEST, tl.float32)
    weight = tl.zeros([block], tl.float32)
    total = tl.zeros([block, head_dim], tl.float32)
    # The argument of a launch would only have loads for `tl.dot` fetched ahead.
    for start in tl.range(first, last, block, num_stages=stages):
        slots = start + lanes
        inside = slots < last
        places = slots[:, None] * head_dim + dims[None, :]
        key = tl.load(keys + places, mask=inside[:, None], other=0).to(tl.float32)
        value = tl.load(values + places, mask=inside[:, None], other=0).to(tl.float32)
        score = tl.sum(key * query[None, :], axis=1)
        if quantized:
            score = score * tl.load(key_scales + slots, mask=inside, other=0).to(tl.float32)
        score = tl.where(inside, score, _LOWEST)
        new_peak = tl.maximum(peak, score)
        kept = tl.exp2(peak - new_peak)
        share = tl.where(inside, tl.exp2(score - new_peak), 0.0)
        weight = weight * kept + share
        if quantized:
            share = share * tl.load(value_scales + slots, mask=inside, other=0).to(tl.float32)
        total = total * kept[:, None] + share[:, None] * value
        peak = new_peak
    top = tl.max(peak, axis=0)
    kept = tl.exp2(peak - top)
    tl.store(peaks + result, top)
    tl.store(weights + result, tl.sum(weight * kept, axis=0))
    tl.store(sums + result * head_dim + dims, tl.sum(total * kept[:, None], axis=0))


@triton.jit
def _combine_kernel(
    sums,  # [B H, splits, D] float32
    peaks,  # [B H, splits]
    weights,  # [B H, splits]
    output,  # [B H, D], to be written
    splits,
    head_dim: tl.constexpr,
    padded_splits: tl.constexpr,
):
    result = tl.program_id(0).to(tl.int64)
    dims = tl.arange(0, head_dim)
    parts = tl.arange(0, padded_splits)
    inside = parts < splits
    peak = tl.load(peaks + result * splits + parts, mask=inside, other=_LOWEST)
    kept = tl.exp2(peak - tl.max(peak, axis=0))
    weight = tl.load(weights + result * splits + parts, mask=inside, other=0.0)
    places = (result * splits + parts[:, None]) * head_dim + dims[None, :]
    partial = tl.load(sums + places, mask=inside[:, None], other=0.0)
    total = tl.sum(weight * kept, axis=0)
    y = tl.sum(partial * kept[:, None], axis=0) / tl.where(total == 0.0, 1.0, total)
    tl.store(output + result * head_dim + dims, y.to(output.dtype.element_ty))


def store(
    heads: Tensor, layer: LayerCache, slots: Tensor, rotation: Tensor | None, interleaved: bool
) -> Tensor:
    """Launches the kernel of `cache_attention.store`."""
    batch, num_heads, head_dim = heads.shape
    values, scales = layer.values, layer.scales
    kv_heads = values.shape[2]
    num_queries = num_heads - 2 * kv_heads
    # One stride serves keys and values: the heads of the values follow those of the keys.
    assert values.stride(1) == kv_heads * values.stride(2) and values.stride(3) == head_dim
    assert heads.stride()[1:] == (head_dim, 1)
    queries, first_head, angles = heads[:, :num_queries], num_queries, heads
    if rotation is not None:
        angles = torch.view_as_real(rotation)
        assert angles.is_contiguous() and angles.numel() == batch * head_dim
        queries, first_head = torch.empty_like(queries, memory_format=torch.contiguous_format), 0
    _store_kernel[(batch, num_heads - first_head)](
        heads,
        angles,
        slots,
        queries,
        values,
        values if scales is None else scales,
        heads.stride(0),
        values.stride(0),
        values.stride(2),
        0 if scales is None else scales.stride(0),
        0 if scales is None else scales.stride(2),
        first_head,
        num_queries,
        num_queries + kv_heads,
        pairs=head_dim // 2,
        interleaved=interleaved,
        rotated=rotation is not None,
        quantized=scales is not None,
        num_warps=1,
        **_OPTIONS,
    )
    return queries


def attend_to_chunks(
    queries: Tensor, layer: LayerCache, filled: Tensor, splits: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes partial results of every chunk: sums [B, H, splits, D], peaks and weights [B, H, splits]."""
    batch, heads, head_dim = queries.shape
    values, scales = layer.values, layer.scales
    assert queries.stride()[1:] == (head_dim, 1) and values.stride(3) == head_dim
    sums = torch.empty(batch, heads, splits, head_dim, dtype=torch.float32, device=queries.device)
    peaks, weights = torch.empty(2, batch, heads, splits, dtype=torch.float32, device=queries.device).unbind()
    _attend_kernel[(batch, heads, splits)](
        queries,
        values,
        values if scales is None else scales,
        filled,
        sums,
        peaks,
        weights,
        queries.stride(0),
        values.stride(0),
        values.stride(1),
        values.stride(2),
        *(0, 0, 0) if scales is None else scales.stride()[:3],
        math.log2(math.e) / math.sqrt(head_dim),
        heads // values.shape[2],
        chunk,
        head_dim=head_dim,
        block=BLOCK_NUMBERS // head_dim,
        stages=STAGES,
        quantized=scales is not None,
        num_warps=WARPS,
        **_OPTIONS,
    )
    return sums, peaks, weights


def combine(sums: Tensor, peaks: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Combines the partial results of `attend_to_chunks` -> [B, H, D] of that type."""
    batch, heads, splits, head_dim = sums.shape
    output = torch.empty(batch, heads, head_dim, device=sums.device, dtype=dtype)
    _combine_kernel[(batch * heads,)](
        sums,
        peaks,
        weights,
        output,
        splits,
        head_dim=head_dim,
        padded_splits=triton.next_power_of_2(splits),
        num_warps=4,
        **_OPTIONS,
    )
    return output
