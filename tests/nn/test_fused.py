"""Kernels that stand for several operators of PyTorch."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moshi_agent.nn import fused
from tests.nn.fused_checks import CHECKS
from tests.nn.triton_here import needs_interpreter, needs_triton


@pytest.mark.slow
@needs_interpreter
def test_the_kernels_are_the_operators() -> None:
    """Run by Triton's interpreter, which reads its environment once: hence in a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.nn.fused_checks"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed:") == len(CHECKS)


@needs_triton
def test_the_kernels_compile_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code for H100, at the sizes of the 7B model."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from moshi_agent.nn import fused_kernels as kernels

    types = {name: "*bf16" for name in ("x", "change", "scale", "total", "normed")}
    types |= {name: "*fp32" for name in ("best", "noise", "inverse_temp", "top_p")}
    types |= {"tokens": "*i64", "key": "*i64", "kept": "*i64", "eps": "fp32"}
    for kernel, block, output in (
        (kernels._silu_times_kernel, 1024, "*bf16"),
        (kernels._add_and_norm_kernel, 4096, "*bf16"),
        (kernels._noise_kernel, 1024, "*fp32"),
        (kernels._draw_kernel, 512, "*i64"),
    ):
        of_kernel = types | {"block": "constexpr", "output": output}
        signature = {name: of_kernel.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs={"block": block})
        options = {"num_warps": 4, "enable_fp_fusion": True}
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", CHECKS)
def test_the_compiled_kernels_are_the_operators(check: Callable[[str], None]) -> None:
    """On the device."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    with torch.inference_mode():
        check("cuda")


def test_without_a_compiler_the_operators_serve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, with the package that is missing: Triton would fail at the first step."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    fused.has_triton.cache_clear()
    try:
        assert not fused.has_triton() and not fused.has_triton()
    finally:
        fused.has_triton.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "apt install gcc" in caplog.text
