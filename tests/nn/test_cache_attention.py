"""The cache as int8, and attention to what is filled of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from moshi_agent.nn.cache_attention import attend, attend_reference, choose_chunk, chunk_cost, store
from moshi_agent.nn.kv_cache import SCALE_DTYPE, LayerCache, dequantize, quantize
from tests.nn.triton_here import needs_interpreter, needs_triton
from tests.small_models import small_lm

_CHECKS = Path(__file__).with_name("cache_attention_interpreted.py")


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=50)
def test_quantised_vectors_are_within_half_a_step(seed: int, size: float, dtype: torch.dtype) -> None:
    """Each number is off by at most half of the vector's own step, and by one for the scale's rounding."""
    generator = torch.Generator().manual_seed(seed)
    vectors = (size * torch.randn(5, 64, generator=generator)).to(dtype)
    values, scales = quantize(vectors)
    error = (dequantize(values, scales) - vectors.float()).abs()
    assert (error <= 0.5 * (1 + 2**-3) * vectors.float().abs().amax(-1, keepdim=True) / 127).all()


def test_normal_vectors_lose_less_than_a_hundredth() -> None:
    """The figure that speaks for int8 with a scale for each vector, beside what float8 would lose."""
    vectors = torch.randn(2000, 128, generator=torch.Generator().manual_seed(0))
    int8 = (dequantize(*quantize(vectors)) - vectors).norm() / vectors.norm()
    float8 = (vectors.to(torch.float8_e4m3fn).float() - vectors).norm() / vectors.norm()
    assert int8 < 0.008
    assert float8 > 3 * int8


def test_zeros_stay_zeros_and_what_is_no_number_stays_so() -> None:
    """A vector of zeros has no scale to divide by; a poisoned one must not look healthy."""
    vectors = torch.zeros(3, 16)
    vectors[1, 4], vectors[2, 4] = torch.nan, torch.inf
    back = dequantize(*quantize(vectors))
    assert (back[0] == 0).all()
    assert not back[1].isfinite().all() and not back[2].isfinite().all()


@pytest.mark.parametrize("filled", [1, 7, 20])
def test_the_reference_is_the_attention_of_pytorch(filled: int) -> None:
    """On the filled part of the cache, in float32, heads shared."""
    generator = torch.Generator().manual_seed(2)
    queries = torch.randn(2, 4, 16, generator=generator)
    values = torch.randn(2, 2, 2, 20, 16, generator=generator)
    keys = values[:, 0, :, :filled]
    wanted = F.scaled_dot_product_attention(
        queries[:, :, None], keys, values[:, 1, :, :filled], enable_gqa=True
    )[:, :, 0]
    seen = torch.tensor([filled, 0], dtype=torch.int32)
    got = attend_reference(queries, LayerCache(values), seen, 20)
    torch.testing.assert_close(got[0], wanted[0], atol=1e-6, rtol=1e-5)
    assert (got[1] == 0).all()


@given(st.integers(1, 12_000), st.integers(1, 4000), st.integers(40, 1000))
def test_chunks_cover_the_cache_and_none_is_beyond_it(programs: int, length: int, at_once: int) -> None:
    """However many rows and heads there are, whole blocks; no chunk of these would cost less."""
    splits, chunk = choose_chunk(programs, length, at_once)
    assert splits * chunk >= length > (splits - 1) * chunk
    assert chunk % 32 == 0 and chunk >= 128
    cost = chunk_cost(programs, length, at_once, chunk)
    for other in (128, 256, 512, -(-length // 32) * 32):
        assert other < 128 or cost <= chunk_cost(programs, length, at_once, other)


def test_one_row_fills_a_device_once() -> None:
    """32 heads, a full context, 132 processors: by 128 positions it would take a wave and a sixth, so two."""
    splits, chunk = choose_chunk(32, 3000, 660)
    assert (splits, chunk) == (19, 160)
    assert chunk_cost(32, 3000, 660, 160) == 192 and chunk_cost(32, 3000, 660, 128) == 320


@torch.no_grad()
def test_an_int8_cache_follows_the_float_one() -> None:
    """Over the wrap of the ring, rows out of step: text logits off by a hundredth of their size or two."""
    lm, generator = small_lm(context=6), torch.Generator().manual_seed(3)
    exact, quantised = lm.init_state(3), lm.init_state(3, kv_int8=True)
    for _ in range(16):
        tokens = torch.randint(0, 30, (3, 5, 1), generator=generator)
        mask = torch.rand(3, generator=generator) < 0.7
        (_, wanted), (_, got) = (lm.temporal(tokens, state, mask) for state in (exact, quantised))
        assert (got - wanted)[mask].norm() <= 0.02 * wanted[mask].norm()
    assert torch.equal(exact.offset, quantised.offset)


@torch.no_grad()
def test_rows_of_an_int8_cache_are_saved_and_copied_like_any_state() -> None:
    """Scales are part of the row."""
    lm, tokens = small_lm(context=6), torch.randint(0, 30, (2, 5, 1))
    state = lm.init_state(2, kv_int8=True)
    assert state.kv.dtype == torch.int8 and state.kv_scales is not None
    for _ in range(4):
        lm.temporal(tokens, state)
    larger = lm.init_state(3, kv_int8=True)
    larger.load_row(2, state.save_row(1))
    larger.copy_row(2, 0)
    _, wanted = lm.temporal(tokens, state)
    _, got = lm.temporal(tokens[1:].expand(3, -1, -1), larger)
    torch.testing.assert_close(got[[0, 2]], wanted[[1, 1]], atol=1e-6, rtol=1e-5)
    state.reset()
    assert not any(tensor.any() for tensor in state.tensors())


@pytest.mark.slow
@needs_interpreter
def test_the_kernels_are_the_reference() -> None:
    """Run by Triton's interpreter, which reads its environment once: hence in a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = _CHECKS.parents[2]
    command = [sys.executable, "-m", "tests.nn.cache_attention_interpreted"]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed:") == 6


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("quantized", [False, True])
def test_the_kernels_compile_where_there_is_no_gpu(
    quantized: bool, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code for A100 and H100, heads of 128: what the interpreter takes, a compiler may not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from moshi_agent.nn import cache_attention_kernels as kernels

    types = {"queries": "*bf16", "heads": "*bf16", "output": "*bf16", "slots": "*i64", "filled": "*i32"}
    types |= {name: "*fp32" for name in ("sums", "peaks", "weights", "rotation")} | {"score_scale": "fp32"}
    types |= {"cache": "*i8", "scales": "*fp16"} if quantized else {"cache": "*bf16", "scales": "*bf16"}
    constants = {"head_dim": 128, "block": 32, "padded_splits": 16, "stages": 3, "quantized": quantized}
    constants |= {"pairs": 64, "interleaved": True, "rotated": True}
    for kernel in (kernels._store_kernel, kernels._attend_kernel, kernels._combine_kernel):
        names = kernel.arg_names
        values = {name: constants[name] for name in names if name in constants}
        signature = {name: "constexpr" if name in values else types.get(name, "i32") for name in names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=values)
        options = {"num_warps": 4, "enable_fp_fusion": True}
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert compiled.asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_the_compiled_kernels_are_the_reference(rows: int, dtype: torch.dtype) -> None:
    """At the sizes of the 7B model, in the middle of a state, on the device."""
    pytest.importorskip("triton")
    heads, capacity, head_dim, device = 32, 3000, 128, "cuda"
    values = torch.zeros(rows, 2, 2, heads, capacity, head_dim, device=device, dtype=dtype)[:, 1]
    scales = None
    if dtype == torch.int8:
        scales = torch.zeros(rows, 2, 2, heads, capacity, device=device, dtype=SCALE_DTYPE)[:, 1]
    layer, other = LayerCache(values, scales), LayerCache(values, scales)
    everywhere = torch.arange(rows, device=device)[:, None]
    for slot in (*range(0, capacity, 7), capacity - 1):
        step = torch.randn(rows, 2, heads, head_dim, device=device).to(torch.bfloat16)
        slots = torch.full((rows,), slot, device=device)
        store(step.flatten(1, 2), layer, slots)
        stored = layer.read(capacity, torch.float32)[:, :, :, slot].clone()
        other.write(step[:, None], everywhere, slots[:, None])
        torch.testing.assert_close(
            stored.float(), other.read(capacity, torch.float32)[:, :, :, slot].float(), atol=0.04, rtol=0.01
        )
    queries = torch.randn(rows, 3 * heads, head_dim, device=device).to(torch.bfloat16)[:, :heads]
    for filled in (1, 250, capacity):
        seen = torch.full((rows,), filled, device=device, dtype=torch.int32)
        got, wanted = (one(queries, layer, seen, capacity) for one in (attend, attend_reference))
        torch.testing.assert_close(got, wanted, atol=1e-2, rtol=1e-2)
