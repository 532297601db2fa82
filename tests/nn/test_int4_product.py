"""Products with weights of four bits, which a kernel reads as they are stored."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.nn.int4_product import (
    GROUP,
    dequantize,
    expanded_product,
    num_bytes,
    product_reference,
    quantize_groups,
)
from moshi_agent.nn.linear import Int4Linear
from tests.nn.int4_product_checks import CHECKS

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@given(
    outputs=st.integers(1, 9),
    inputs=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    log_size=st.floats(-8, 8),
)
def test_no_number_moves_by_more_than_a_step(outputs: int, inputs: int, seed: int, log_size: float) -> None:
    """By half of one, as a rule; by a whole one where it is the opposite of the group's largest.

    The largest keeps its sign and moves by the rounding of the scale alone. Rounding again changes nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = 2**log_size * torch.randn(outputs, inputs, generator=generator)
    halves, scales = quantize_groups(weight)
    assert halves.shape == (outputs, num_bytes(inputs)) and halves.dtype == torch.uint8
    got = dequantize(halves, scales, inputs)
    step = scales.t().abs().float().repeat_interleave(GROUP, dim=1)[:, :inputs]
    assert ((got - weight).abs() <= step * (1 + 2**-7)).all()
    is_inside = weight.abs() <= 7 * step
    assert ((got - weight).abs() <= step * (0.5 + 2**-7))[is_inside].all()
    for part, rounded in zip(weight.split(GROUP, 1), got.split(GROUP, 1), strict=True):
        place = part.abs().argmax(1, keepdim=True)
        torch.testing.assert_close(rounded.gather(1, place), part.gather(1, place), rtol=2**-10, atol=1e-7)
    again, scales_again = quantize_groups(got)
    assert torch.equal(again, halves) and torch.equal(scales_again, scales)


def test_what_four_bits_hold_stays_as_it_is() -> None:
    """And zeros, a group of one sign, numbers too small for a scale, and more rows than are taken at once."""
    steps = ((torch.arange(4100)[:, None] + 7 * torch.arange(192)) % 16 - 8).float()
    assert torch.equal(dequantize(*quantize_groups(steps), 192), steps)
    small = torch.tensor([[0.0] * 3, [1e-12, -1e-12, 0.0], [0.5, 1.0, 0.25]])
    got = dequantize(*quantize_groups(small), 3)
    assert not got[:2].any() and got[2].tolist() == [0.5, 1.0, 0.25]


def test_the_layer_is_the_product_with_what_its_weight_stands_for() -> None:
    """However many dimensions its input has, by either way of PyTorch's, and packed for the CPU."""
    torch.manual_seed(0)
    plain = torch.randn(70, 200)
    layer = Int4Linear.rounded(plain)
    assert layer.state_dict().keys() == Int4Linear(200, 70).state_dict().keys()
    x = torch.randn(2, 3, 200)
    wanted = x @ layer.dense_weight().T
    others = [one(x, layer.weight, layer.weight_scales) for one in (product_reference, expanded_product)]
    by_itself = layer(x)
    layer.pack("float32")
    for got in (by_itself, layer(x), *others):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - x @ plain.T).norm() < 0.11 * wanted.norm()


@pytest.mark.slow
@needs_triton
def test_the_kernel_is_the_operators() -> None:
    """Run by Triton's interpreter, which reads its environment once: hence in a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.nn.int4_product_checks"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed:") == len(CHECKS)


@needs_triton
@pytest.mark.parametrize("capability", [75, 80, 90])
def test_the_kernel_compiles_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    """To machine code for Turing, A100 and H100, in the type that each has."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from moshi_agent.nn import int4_product_kernels as kernels

    number = "*fp16" if capability < 80 else "*bf16"
    types = {"x": number, "weight": "*u8", "scales": "*fp16"}
    for block_rows, output in ((16, number), (64, "*fp32")):
        constants = {
            "block_rows": block_rows,
            "block_outputs": kernels.OUTPUTS,
            "group": kernels.GROUP,
            "stages": kernels.STAGES,
        }
        of_kernel = types | dict.fromkeys(constants, "constexpr") | {"output": output}
        kernel = kernels._product_kernel
        signature = {name: of_kernel.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        options = {"num_warps": kernels.WARPS, "enable_fp_fusion": True}
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", CHECKS)
def test_the_compiled_kernel_is_the_operators(check: Callable[[str], None]) -> None:
    """On the device."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    with torch.inference_mode():
        check("cuda")
