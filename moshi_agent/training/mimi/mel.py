"""Mel spectra, as every loss and figure of the codec's trainings takes them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MelSpectrogram(nn.Module):
    """Computes mel magnitudes at one resolution; a sine of amplitude 1 has magnitude 1."""

    window: Tensor  # [size]
    filters: Tensor  # [bands, size // 2 + 1]

    def __init__(self, size: int, bands: int, sample_rate_hz: int, lowest_hz: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.hop = size // 4
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        filters = mel_filters(bands, size, sample_rate_hz, lowest_hz)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, signal: Tensor) -> Tensor:
        """Computes [B, T] -> [B, bands, T // hop + 1]."""
        spectrum = torch.stft(signal, self.size, self.hop, window=self.window, return_complex=True)
        # The square root has no finite slope at zero, which silence reaches.
        power = spectrum.real.square() + spectrum.imag.square()
        magnitude = (power + 1e-14).sqrt() * (4 / self.size)
        return torch.matmul(self.filters, magnitude)


def mel_filters(bands: int, window: int, sample_rate_hz: int, lowest_hz: float = 0.0) -> Tensor:
    """Makes triangular filters of unit sum, even in mel up to half the rate. [bands, window // 2 + 1]"""
    nyquist_hz = sample_rate_hz / 2
    lowest_mel, highest_mel = (2595 * math.log10(1 + hz / 700) for hz in (lowest_hz, nyquist_hz))
    mels = torch.linspace(lowest_mel, highest_mel, bands + 2)
    edges_hz = 700 * (10 ** (mels / 2595) - 1)
    bins_hz = torch.linspace(0, nyquist_hz, window // 2 + 1)
    # A filter narrower than a bin would see nothing: widen each to one bin on either side.
    bin_hz = nyquist_hz / (window // 2)
    centres = edges_hz[1:-1, None]
    below = torch.maximum(centres - edges_hz[:-2, None], torch.tensor(bin_hz))
    above = torch.maximum(edges_hz[2:, None] - centres, torch.tensor(bin_hz))
    offset = bins_hz[None] - centres
    filters = torch.where(offset < 0, 1 + offset / below, 1 - offset / above).clamp(min=0)
    return filters / filters.sum(1, keepdim=True)
