"""Attention of a single step to a ring cache, read as it is stored and only as far as it is filled.

On CUDA this is a kernel of its own: an int8 cache would otherwise be read, written in a float type
and read again, five times the traffic, and a mask would let every row cost as much as the longest.
Positions are rotated before they are stored, so their order in the ring says nothing: the filled slots
are exactly what the step may see. Elsewhere `SelfAttention` has the same mathematics in PyTorch.
"""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor

from moshi_agent.config import TransformerConfig
from moshi_agent.nn import fused
from moshi_agent.nn.fast_path_switch import is_on
from moshi_agent.nn.kv_cache import LayerCache

_OF_ONE_PROCESSOR = 5  # programs at once: each has 128 threads of 96 registers, as compiled for sm_90
_BLOCK = 32  # positions, of heads of 128
_LEAST_CHUNK = 128  # positions that are worth a program
_START = 32  # what a program costs beside its positions, in positions
_CPU_PROGRAMS = 640  # where the interpreter runs the kernel
HEAD_DIMS = (16, 32, 64, 128, 256)


def serves(config: TransformerConfig, device: torch.device) -> bool:
    """Tells whether the kernel takes the single steps of such a transformer: it needs CUDA and Triton."""
    if device.type != "cuda" or config.head_dim not in HEAD_DIMS:
        return False
    return is_on("attention") and fused.has_triton()


@cache
def programs_at_once(device: torch.device) -> int:
    """Counts the programs of the kernel that a device runs at the same time."""
    if device.type != "cuda":
        return _CPU_PROGRAMS
    return _OF_ONE_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


@lru_cache(1024)
def choose_chunk(programs: int, length: int, at_once: int) -> tuple[int, int]:
    """Chooses how a cache of `length` positions is split among so many rows times heads.

    A device takes the programs in waves of `at_once`, each of which lasts as long as a chunk: the last one is
    to be as full as can be.

    Returns:
        The number of splits, and how many positions each has.
    """
    longest = max(_LEAST_CHUNK, _parts(length, _BLOCK) * _BLOCK)
    chunks = range(_LEAST_CHUNK, longest + 1, _BLOCK)
    chunk = min(chunks, key=lambda one: chunk_cost(programs, length, at_once, one))
    return _parts(length, chunk), chunk


def chunk_cost(programs: int, length: int, at_once: int, chunk: int) -> int:
    """Estimates what attention costs in chunks of so many positions, in positions read one by one."""
    return _parts(programs * _parts(length, chunk), at_once) * (chunk + _START)


def _parts(size: int, of: int) -> int:
    return -(-size // of)


def store(
    heads: Tensor,
    layer: LayerCache,
    slots: Tensor,
    rotation: Tensor | None = None,
    interleaved: bool = True,
) -> Tensor:
    """Writes the keys and values of one step of every row to its slot, [B].

    Args:
        heads: [B, H + 2 H_kv, D] queries, keys and values.
        rotation: complex, with B times D / 2 numbers, turns queries and keys; as `positions.rotate` does.

    Returns:
        [B, H, D] the queries, turned as well.
    """
    from moshi_agent.nn import cache_attention_kernels as kernels

    with torch.cuda.device_of(heads):
        return kernels.store(heads, layer, slots, rotation, interleaved)


def attend(queries: Tensor, layer: LayerCache, filled: Tensor, length: int) -> Tensor:
    """Computes what one step of every row sees.

    Args:
        queries: [B, H, D].
        filled: [B] int32, how many slots of each row hold something; a row with 0 gives zeros.
        length: the most that any row may have filled; what lies beyond is not read.

    Returns:
        [B, H, D].
    """
    from moshi_agent.nn import cache_attention_kernels as kernels

    batch, heads, _ = queries.shape
    splits, chunk = choose_chunk(batch * heads, length, programs_at_once(queries.device))
    with torch.cuda.device_of(queries):
        sums, peaks, weights = kernels.attend_to_chunks(queries, layer, filled, splits, chunk)
        return kernels.combine(sums, peaks, weights, queries.dtype)


def attend_reference(queries: Tensor, layer: LayerCache, filled: Tensor, length: int) -> Tensor:
    """Computes what `attend` does in plain PyTorch, in float32: the kernel is tested against it."""
    keys, values = layer.read(length, torch.float32).float().unbind(1)
    repeat = queries.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(repeat, dim=1) for part in (keys, values))
    scores = torch.einsum("bhd,bhld->bhl", queries.float(), keys) / queries.shape[-1] ** 0.5
    seen = torch.arange(length, device=queries.device) < filled[:, None]
    scores = scores.masked_fill(~seen[:, None], -torch.inf)
    y = torch.einsum("bhl,bhld->bhd", scores.softmax(-1), values)
    return torch.where((filled > 0)[:, None, None], y, 0).to(queries.dtype)
