"""Products with int8 weights, which a kernel reads as they are stored."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moshi_agent.nn.int8_product import expanded_product, product_reference
from moshi_agent.nn.linear import Int8Linear, quantize_rows
from tests.nn.int8_product_checks import CHECKS

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.mark.slow
@needs_triton
def test_the_kernels_are_the_operators() -> None:
    """Run by Triton's interpreter, which reads its environment once: hence in a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.nn.int8_product_checks"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed:") == len(CHECKS)


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    """To machine code for A100 and H100."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from moshi_agent.nn import int8_product_kernels as kernels

    blocks = {"block_outputs": kernels.OUTPUTS, "block_inputs": kernels.INPUTS, "stages": kernels.STAGES}
    whole = blocks | {"block_rows": 16, "is_whole": True}
    parts = blocks | {"block_rows": 64, "is_whole": False}
    combine = {"splits": 4, "block": 1024, "is_scaled": True}
    types = {"x": "*bf16", "weight": "*i8", "largest": "*fp32", "sums": "*fp32"}
    for kernel, constants, output in (
        (kernels._product_kernel, whole, "*bf16"),
        (kernels._product_kernel, parts, "*fp32"),
        (kernels._combine_kernel, combine, "*bf16"),
    ):
        of_kernel = types | dict.fromkeys(constants, "constexpr") | {"output": output}
        signature = {name: of_kernel.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        options = {"num_warps": kernels.WARPS, "enable_fp_fusion": True}
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", CHECKS)
def test_the_compiled_kernels_are_the_operators(check: Callable[[str], None]) -> None:
    """On the device."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    with torch.inference_mode():
        check("cuda")


def test_the_layer_is_the_product_with_what_its_weight_stands_for() -> None:
    """However many dimensions its input has, and by either way of PyTorch's."""
    torch.manual_seed(0)
    layer = Int8Linear(200, 70)
    plain = torch.randn(70, 200)
    layer.weight.data, layer.weight_scb.data = quantize_rows(plain)
    x = torch.randn(2, 3, 200)
    wanted = x @ layer.dense_weight().T
    others = [product(x, layer.weight, layer.weight_scb) for product in (product_reference, expanded_product)]
    for got in (layer(x), *others):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - x @ plain.T).norm() < 0.02 * wanted.norm()
