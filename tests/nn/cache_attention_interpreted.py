"""The Triton kernels held to plain PyTorch on the CPU.

Run by test_cache_attention.py with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from unittest import mock

import torch
from torch import Tensor

from moshi_agent.nn import cache_attention
from moshi_agent.nn.cache_attention import attend, attend_reference, choose_chunk, programs_at_once, store
from moshi_agent.nn.kv_cache import SCALE_DTYPE, LayerCache
from moshi_agent.nn.positions import rotate
from tests.small_models import small_lm

_LAYERS, _LAYER = 3, 1  # a layer in the middle of a state: its rows do not follow one another


def _layer(rows: int, heads: int, capacity: int, head_dim: int, dtype: torch.dtype) -> LayerCache:
    """A cache that is full of normal numbers."""
    numbers = torch.randn(rows, capacity, 2, heads, head_dim)
    values = torch.zeros(rows, _LAYERS, 2, heads, capacity, head_dim, dtype=dtype)[:, _LAYER]
    scales = None
    if dtype == torch.int8:
        scales = torch.zeros(rows, _LAYERS, 2, heads, capacity, dtype=SCALE_DTYPE)[:, _LAYER]
    layer = LayerCache(values, scales)
    everywhere = torch.arange(capacity).expand(rows, -1)
    layer.write(
        numbers.to(torch.float32 if scales is not None else dtype), torch.arange(rows)[:, None], everywhere
    )
    return layer


def _queries(rows: int, heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Of rows that do not follow one another either."""
    return torch.randn(rows, 3 * heads, head_dim).to(dtype)[:, :heads]


def attention_is_that_of_pytorch() -> None:
    """Sizes, types, splits, shared heads; rows that are full, nearly empty and empty."""
    cases = [
        # rows, heads, heads of the cache, capacity, head_dim, cache, queries
        (4, 2, 2, 300, 64, torch.int8, torch.bfloat16),
        (3, 2, 2, 300, 128, torch.int8, torch.float32),
        (3, 4, 2, 200, 128, torch.bfloat16, torch.bfloat16),
        (1, 1, 1, 700, 64, torch.float32, torch.float32),
        (2, 2, 1, 130, 16, torch.int8, torch.float32),
    ]
    for rows, heads, kv_heads, capacity, head_dim, dtype, query_dtype in cases:
        layer = _layer(rows, kv_heads, capacity, head_dim, dtype)
        queries = _queries(rows, heads, head_dim, query_dtype)
        filled = torch.tensor([capacity, 1, 0, capacity // 2][:rows], dtype=torch.int32)
        tolerance = 1e-5 if query_dtype == torch.float32 else 1e-2
        for length in (capacity, capacity // 2):
            seen = filled.clamp(max=length)
            got, wanted = (one(queries, layer, seen, length) for one in (attend, attend_reference))
            torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


def several_chunks_are_one_softmax() -> None:
    """Also where one chunk holds nearly all of the weight, or nothing yet."""
    layer = _layer(1, 1, 1024, 64, torch.float32)
    queries = 20 * _queries(1, 1, 64, torch.float32)
    assert choose_chunk(1, 1024, programs_at_once(queries.device))[0] > 1
    for filled in (1, 128, 129, 1024):
        seen = torch.tensor([filled], dtype=torch.int32)
        got, wanted = (one(queries, layer, seen, 1024) for one in (attend, attend_reference))
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def what_is_not_a_number_stays_so() -> None:
    """A row that is ill is seen to be ill, and only that row."""
    layer = _layer(2, 2, 140, 64, torch.float32)
    queries = _queries(2, 2, 64, torch.float32)
    queries[0, 1, 5] = torch.nan
    got = attend(queries, layer, torch.tensor([140, 140], dtype=torch.int32), 140)
    assert got[0, 1].isnan().all() and got[0, 0].isfinite().all() and got[1].isfinite().all()


def storing_is_that_of_pytorch() -> None:
    """The same int8 numbers and scales, bit by bit, in the right slots; nothing else is touched."""
    for dtype in (torch.int8, torch.bfloat16):
        layer = _layer(4, 2, 40, 64, dtype)
        scales = layer.scales
        other = LayerCache(layer.values.clone(), None if scales is None else scales.clone())
        step = torch.randn(4, 8, 64).to(torch.bfloat16)[:, 2:6].unflatten(1, (2, 2))
        step[0, 0, 0] = 0
        step[1, 1, 0, 7] = 300.0
        slots = torch.tensor([39, 0, 7, 21])
        store(step.flatten(1, 2), layer, slots)
        other.write(step[:, None], torch.arange(4)[:, None], slots[:, None])
        assert torch.equal(layer.values, other.values)
        if layer.scales is not None and other.scales is not None:
            assert torch.equal(layer.scales, other.scales)


def queries_and_keys_are_turned() -> None:
    """Shared heads, both orders of the pairs; the queries come back, the values are stored as they are."""
    for interleaved in (True, False):
        layer = _layer(3, 2, 40, 64, torch.float32)
        other = LayerCache(layer.values.clone())
        heads = torch.randn(3, 4 + 2 * 2, 64)
        phase = 100 * torch.rand(3, 1, 1, 32)
        rotation, slots = torch.polar(torch.ones_like(phase), phase), torch.tensor([39, 0, 7])
        got = store(heads, layer, slots, rotation, interleaved)
        turned = rotate(heads[:, None, :6], rotation, interleaved)[:, 0]
        torch.testing.assert_close(got, turned[:, :4], atol=1e-5, rtol=1e-5)
        step = torch.stack([turned[:, 4:], heads[:, 6:]], dim=1)
        other.write(step[:, None], torch.arange(3)[:, None], slots[:, None])
        torch.testing.assert_close(layer.values, other.values, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def a_model_that_uses_them_is_the_same_model() -> None:
    """Rows out of step, a ring that wraps around: the text logits of the language model."""
    lm, generator = small_lm(context=6), torch.Generator().manual_seed(1)
    served = mock.patch.object(cache_attention, "serves", return_value=True)
    for kv_int8 in (False, True):
        plain, with_kernels = lm.init_state(3, kv_int8), lm.init_state(3, kv_int8)
        for _ in range(16):
            tokens = torch.randint(0, 30, (3, 5, 1), generator=generator)
            mask = torch.rand(3, generator=generator) < 0.7
            _, wanted = lm.temporal(tokens, plain, mask, length=6)
            with served:
                _, got = lm.temporal(tokens, with_kernels, mask, length=6)
            torch.testing.assert_close(got[mask], wanted[mask], atol=1e-4, rtol=1e-4)
            assert got.isfinite().all()
        assert torch.equal(plain.offset, with_kernels.offset)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for check in (
        attention_is_that_of_pytorch,
        several_chunks_are_one_softmax,
        what_is_not_a_number_stays_so,
        storing_is_that_of_pytorch,
        queries_and_keys_are_turned,
        a_model_that_uses_them_is_the_same_model,
    ):
        check()
        print("passed:", check.__name__)
