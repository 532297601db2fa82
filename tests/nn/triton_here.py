"""Which tests of kernels can run with the Triton that is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest


def _release() -> str:
    """Like "3.7"; empty where there is none."""
    try:
        return ".".join(importlib.metadata.version("triton").split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return ""


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
# Every PyTorch for CUDA pins one release of Triton, so the tests cannot ask for theirs beside it.
needs_interpreter = pytest.mark.skipif(
    _release() != "3.7", reason="Triton's interpreter is right in 3.7 alone, which .ci/run brings along"
)
