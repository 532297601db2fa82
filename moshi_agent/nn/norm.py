"""Normalisations, and the residual scales that stand after a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.config import Norm
from moshi_agent.nn import fused


class LayerNorm(nn.LayerNorm):
    """Normalises by mean and variance; with `float32`, in that type whatever the input's."""

    def __init__(self, dim: int, eps: float = 1e-5, float32: bool = False) -> None:
        super().__init__(dim, eps=eps)
        self.float32 = float32

    def forward(self, input: Tensor) -> Tensor:  # [*, C] -> [*, C]
        if self.float32 and input.dtype != torch.float32:
            weight, bias = self._affine()
            y = F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps)
            return y.to(input.dtype)
        return super().forward(input)

    def after_adding(self, x: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Computes x + change, and its norm. [*, C], [*, C] -> both [*, C]."""
        x = x + change
        return x, self(x)

    def _affine(self) -> tuple[Tensor | None, Tensor | None]:
        if not self.elementwise_affine:
            return None, None
        return self.weight.float(), self.bias.float()

    def release_affine(self) -> tuple[Tensor, Tensor | None]:
        """Gives up the scale and shift, [C] each, for a layer after it to apply."""
        scale, shift = self.weight.detach(), self.bias.detach()
        self.elementwise_affine = False
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        return scale, shift


class RMSNorm(nn.Module):
    """Normalises by the root mean square (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    alpha: nn.Parameter | None  # [1, 1, C]; None once it has been taken into the next layer

    def __init__(self, dim: int, eps: float, float32: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.float32 = float32
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))
        self._eps: Tensor | None = None  # [1], once the scale has been released

    def forward(self, x: Tensor) -> Tensor:  # [*, C] -> [*, C]
        dtype = x.dtype
        if x.is_cuda and self.alpha is not None and self._is_float32(dtype):
            # The same in one kernel or two rather than eight; they compute in float32, too.
            if not has_norm_kernel() and fused.serves(x):
                return fused.add_and_norm(x, torch.zeros_like(x), self.alpha.flatten(), self.eps)[1]
            return F.rms_norm(x, (x.shape[-1],), self.alpha.flatten(), self.eps)
        if self._eps is not None and dtype == torch.float32:
            return x * _quick_scale(x, self._eps)
        if self.float32:
            x = x.float()
        scale = (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        if self.alpha is not None:
            scale = self.alpha.to(scale) * scale
        return (x * scale).to(dtype)

    def after_adding(self, x: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Computes x + change, and its norm. [*, C], [*, C] -> both [*, C]."""
        alike = x.dtype == change.dtype  # which autocast does not promise
        if self.alpha is not None and self._is_float32(x.dtype) and alike and fused.serves(x):
            return fused.add_and_norm(x, change, self.alpha.flatten(), self.eps)
        x = x + change
        return x, self(x)

    def _is_float32(self, dtype: torch.dtype) -> bool:
        return self.float32 or dtype == torch.float32

    def release_affine(self) -> tuple[Tensor, Tensor | None]:
        """Gives up the scale, [C], and no shift, for a layer after it to apply."""
        assert self.alpha is not None, "released once"
        scale = self.alpha.detach().flatten()
        self.register_parameter("alpha", None)
        self._eps = scale.new_full((1,), self.eps, dtype=torch.float32)
        return scale, None


def has_norm_kernel() -> bool:
    """Tells whether `F.rms_norm` is one kernel on CUDA, as from PyTorch 2.9 on; before, it is eight."""
    return tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)


def _quick_scale(x: Tensor, eps: Tensor) -> Tensor:
    """1 / sqrt(mean of squares + eps), in a third of the time on a CPU. [*, C] float32, [1] -> [*, 1]."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()


def make_norm(kind: Norm, dim: int) -> LayerNorm | RMSNorm:
    """Makes a norm by the name in a configuration, with the epsilon of the published models."""
    float32 = kind.endswith("_f32")
    if kind.startswith("layer_norm"):
        return LayerNorm(dim, eps=1e-8 if float32 else 1e-5, float32=float32)
    return RMSNorm(dim, eps=1e-8 if float32 else 1e-5, float32=float32)


class LayerScale(nn.Module):
    """Scales each channel by a learnt factor (Touvron et al. 2021, arXiv:2103.17239)."""

    scale: nn.Parameter | None  # [C]; None once it has been taken into the layer before

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), float(initial)))

    def forward(self, x: Tensor) -> Tensor:  # [*, C] -> [*, C]
        return x if self.scale is None else self.scale * x

    def release_scale(self) -> Tensor:
        """Gives up the scale, [C], for a layer before it to apply."""
        assert self.scale is not None, "released once"
        scale = self.scale.detach()
        self.register_parameter("scale", None)
        return scale
