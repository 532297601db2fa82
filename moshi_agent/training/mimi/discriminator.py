"""The discriminator of EnCodec: a convolutional network over the complex spectrum, at each of several scales.

Défossez et al. 2022, arXiv:2210.13438, section 3.4; the sizes are those of Audiocraft's codec trainings, from
which Mimi has them (arXiv:2410.00037, section 3.3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

_SLOPE = 0.3  # of the leaky rectifiers
_KERNEL = (3, 9)  # frames, bins
_STRIDE = (1, 2)
_DILATIONS = (1, 2, 4)  # in time


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Says how large the discriminator is, and how it learns."""

    windows: tuple[int, ...] = (1024, 2048, 512, 256, 128)
    filters: int = 32
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.9)


@dataclass(frozen=True)
class Verdict:
    """Says how real one scale finds a signal."""

    logits: Tensor  # [B, 1, frames, bins], above 0 where it sounds real
    features: list[Tensor]  # of each layer before, [B, filters, frames, bins]


class Discriminator(nn.Module):
    """Tells recorded speech from decoded speech, at all scales."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.scales = nn.ModuleList(SpectrumDiscriminator(size, config.filters) for size in config.windows)

    def forward(self, signal: Tensor) -> list[Verdict]:
        """Judges [B, T] -> one verdict for each scale."""
        return [cast(Verdict, scale(signal)) for scale in self.scales]


class SpectrumDiscriminator(nn.Module):
    """Judges at one scale. Its input's channels are the real and the imaginary part."""

    window: Tensor  # [size]

    def __init__(self, size: int, filters: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        layers = [_convolution(2, filters, _KERNEL)]
        layers += [_convolution(filters, filters, _KERNEL, _STRIDE, dilation) for dilation in _DILATIONS]
        layers += [_convolution(filters, filters, (3, 3))]
        self.layers = nn.ModuleList(layers)
        self.last = _convolution(filters, 1, (3, 3))

    def forward(self, signal: Tensor) -> Verdict:
        """Judges [B, T]; a signal shorter than the window is padded to it."""
        x = self._spectrum(signal)
        features: list[Tensor] = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return Verdict(self.last(x), features)

    def _spectrum(self, signal: Tensor) -> Tensor:
        """[B, T] -> [B, 2, frames, bins], of unit energy for white noise of unit power."""
        signal = F.pad(signal.float(), (0, max(self.size - signal.shape[1], 0)))
        spectrum = torch.stft(
            signal, self.size, self.size // 4, window=self.window, center=False, return_complex=True
        )
        spectrum = spectrum / self.window.square().sum().sqrt()
        return torch.view_as_real(spectrum).permute(0, 3, 2, 1)


def _convolution(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: int = 1,
) -> nn.Module:
    padding = ((kernel[0] - 1) * dilation // 2, (kernel[1] - 1) // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation=(dilation, 1))
    nn.init.kaiming_normal_(layer.weight, _SLOPE)  # with torch's default speech fades to nothing on its way
    return weight_norm(layer)
