"""Norms: the one kernel that serves on CUDA is the norm that is written out."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from moshi_agent.nn import fused
from moshi_agent.nn.norm import RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_norm_is_the_one_written_out(dtype: torch.dtype) -> None:
    """For inputs of any size, to the last bit but one of the type."""
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(64, eps=1e-8, float32=True)
    assert norm.alpha is not None
    torch.nn.init.normal_(norm.alpha, mean=1.0, std=0.3, generator=generator)
    norm = norm.to(dtype)
    x = (10 ** torch.arange(-3.0, 4.0)[:, None, None] * torch.randn(7, 3, 64, generator=generator)).to(dtype)
    wanted = norm(x)
    with mock.patch.object(torch.Tensor, "is_cuda", property(lambda tensor: True)):
        fused = norm(x)
    assert fused.dtype == wanted.dtype == dtype
    torch.testing.assert_close(fused, wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-30)


def test_before_pytorch_has_a_kernel_for_it_our_own_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that adds and norms, with nothing to add."""
    norm, x = RMSNorm(64, eps=1e-8, float32=True), torch.randn(3, 2, 64)
    wanted = norm(x)
    added: list[torch.Tensor] = []

    def add_and_norm(
        x: torch.Tensor, change: torch.Tensor, scale: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        added.append(change)
        total = x + change
        return total, total * (total.square().mean(-1, keepdim=True) + eps).rsqrt() * scale

    monkeypatch.setattr(fused, "serves", lambda tensor: True)
    monkeypatch.setattr(fused, "add_and_norm", add_and_norm)
    for version, is_ours in (("2.6.0", True), ("2.8.0+cu128", True), ("2.9.1", False), ("2.14.1", False)):
        monkeypatch.setattr(torch, "__version__", version)
        with mock.patch.object(torch.Tensor, "is_cuda", property(lambda tensor: True)):
            torch.testing.assert_close(norm(x), wanted)
        assert [not change.any() for change in added] == [True] * is_ours, version
        added.clear()


def test_the_quick_norm_of_inference_is_the_one_that_is_trained() -> None:
    """Whether gradients are wanted or not, for inputs of any size, zeros among them."""
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(96, eps=1e-8)
    x = 10 ** torch.arange(-6.0, 4.0)[:, None, None] * torch.randn(10, 3, 96, generator=generator)
    x[0, 0] = 0
    trained = norm(x)
    with torch.inference_mode():
        torch.testing.assert_close(norm(x), trained.detach(), rtol=1e-6, atol=1e-30)
