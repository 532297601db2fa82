"""Each kernel of our own beside PyTorch's operators, on the very device where it is to serve.

A compiler, a driver or a card that nobody has tried may give other numbers. What disagrees is switched off
for the process, and PyTorch's operators serve in its place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.config import TransformerConfig
from moshi_agent.nn import cache_attention, fused, int4_product, int8_product
from moshi_agent.nn.fast_path_switch import FastPathName, switch_off
from moshi_agent.nn.kv_cache import LARGEST, SCALE_DTYPE, LayerCache
from moshi_agent.nn.linear import quantize_rows
from moshi_agent.nn.sampling import noise_reference

_log = logging.getLogger("moshi_agent.nn")
_ROWS = 4
_POSITIONS = 300  # of a cache: more than one block of the kernel, and no multiple of it
_CANDIDATES = 64


@dataclass(frozen=True, kw_only=True)
class FastPath:
    """A kernel, and the operators that it stands for."""

    name: FastPathName  # what is switched off with it
    what: str
    fast: Callable[[], Tensor]
    plain: Callable[[], Tensor]
    tolerance: float  # of the largest difference, as a share of the largest number


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of comparing them."""

    name: str
    what: str
    agrees: bool
    difference: float | None  # the largest, as a share of the largest number; None where the kernel failed
    tolerance: float
    fast_ms: float | None = None
    plain_ms: float | None = None
    error: str | None = None
    of: str = "the largest number"  # what the difference is a share of

    @property
    def told(self) -> str:
        """Says it in words."""
        if self.error is not None:
            return f"failed: {self.error}"
        return f"differs by {self.difference:.2g} of {self.of}, {self.tolerance:.2g} being allowed"


@torch.inference_mode()
def compare(path: FastPath, repeats: int = 0) -> Comparison:
    """Runs both. Times them as well, where there are repeats."""
    facts: dict[str, Any] = {"name": path.name, "what": path.what, "tolerance": path.tolerance}
    try:
        fast, plain = path.fast().float(), path.plain().float()
    except Exception as error:  # whatever a compiler or a driver comes up with
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return Comparison(**facts, agrees=False, difference=None, error=reason)
    difference = float((fast - plain).abs().max() / plain.abs().max().clamp(min=1e-6))
    fast_ms = plain_ms = None
    if repeats:
        fast_ms, plain_ms = (_milliseconds(call, repeats, plain.device) for call in (path.fast, path.plain))
    agrees = difference <= path.tolerance  # which a NaN is not
    return Comparison(**facts, agrees=agrees, difference=difference, fast_ms=fast_ms, plain_ms=plain_ms)


def check_fast_paths(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> list[Comparison]:
    """Compares the kernels that a transformer would use on CUDA, and switches off those that disagree.

    Takes milliseconds, beside what it takes to compile a kernel for the first time on a machine.

    Returns those that were switched off.
    """
    if device.type != "cuda" or not fused.has_triton():
        return []
    refused = [result for path in fast_paths(config, device, dtype) if not (result := compare(path)).agrees]
    for result in refused:
        switch_off(cast(FastPathName, result.name))
        _log.warning(
            "the kernel for %s is switched off, and steps are slower: on %s it %s",
            *(result.what, torch.cuda.get_device_name(device), result.told),
        )
    return refused


def fast_paths(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> Iterator[FastPath]:
    """Lists the kernels with the sizes that a transformer has them compute."""
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, device=device, generator=generator)
    rounding = 2e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-4
    if config.head_dim in cache_attention.HEAD_DIMS:
        for cache_dtype in (torch.int8, dtype):
            yield _attention(config, normal, dtype, cache_dtype, rounding)
    halves, x, change = (
        normal(_ROWS, 1, width).to(dtype) for width in (2 * config.dim, config.dim, config.dim)
    )
    scale = normal(config.dim).to(dtype)
    yield FastPath(
        name="fused",
        what="gates",
        fast=partial(fused.silu_times, halves),
        plain=lambda: F.silu(halves[..., : config.dim].float()) * halves[..., config.dim :].float(),
        tolerance=rounding,
    )
    yield FastPath(
        name="fused",
        what="norms",
        fast=lambda: fused.add_and_norm(x, change, scale, 1e-8)[1],
        plain=lambda: F.rms_norm((x + change).float(), (config.dim,), scale.float(), 1e-8),
        tolerance=rounding,
    )
    key = torch.arange(_ROWS, device=device) * 12345
    kept = torch.full((_ROWS,), _CANDIDATES, device=device)
    yield FastPath(
        name="fused",
        what="the noise of draws",
        fast=lambda: fused.noise(key, 1, 4, kept, _CANDIDATES),
        plain=lambda: noise_reference(key, range(1, 5), kept, _CANDIDATES),
        tolerance=1e-3,
    )
    floats = normal(2 * config.dim, config.dim)
    weight, largest = quantize_rows(floats)
    yield FastPath(
        name="int8 product",
        what="products with int8 weights",
        fast=lambda: int8_product.product(x[:, 0], weight, largest),
        plain=lambda: int8_product.product_reference(x[:, 0], weight, largest),
        tolerance=rounding,
    )
    halves_of_bytes, scales = int4_product.quantize_groups(floats)
    yield FastPath(
        name="int4 product",
        what="products with int4 weights",
        fast=lambda: int4_product.product(x[:, 0], halves_of_bytes, scales),
        plain=lambda: int4_product.product_reference(x[:, 0], halves_of_bytes, scales),
        tolerance=rounding,
    )


def _attention(
    config: TransformerConfig,
    normal: Callable[..., Tensor],
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    tolerance: float,
) -> FastPath:
    heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    values, scales = normal(_ROWS, 2, kv_heads, _POSITIONS, head_dim), None
    if cache_dtype == torch.int8:
        scales = (values.abs().amax(-1) / LARGEST).to(SCALE_DTYPE)
        values = (values / scales.float()[..., None]).round().clamp(-LARGEST, LARGEST)
    layer = LayerCache(values.to(cache_dtype), scales)
    queries = normal(_ROWS, heads, head_dim).to(dtype)
    filled = torch.tensor([_POSITIONS, 1, 129, 200], device=queries.device, dtype=torch.int32)
    given = (queries, layer, filled, _POSITIONS)
    return FastPath(
        name="attention",
        what=f"attention to a cache of {str(cache_dtype).removeprefix('torch.')}",
        fast=partial(cache_attention.attend, *given),
        plain=partial(cache_attention.attend_reference, *given),
        tolerance=tolerance,
    )


def _milliseconds(call: Callable[[], Tensor], repeats: int, device: torch.device) -> float:
    """The mean, of so many after a few that warm up."""
    started = 0.0
    for count in (3, repeats):
        started = time.perf_counter()
        for _ in range(count):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started) / repeats
