"""What the codes must tell: the log-mel spectrum of their frame and the phones in it, read from the latent by
small networks.

It exists in training only. Through a decoder that knows nothing yet, an encoder learns for thousands of
steps little more than loudness; against this it learns formants and pitch in hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.nn.conv import CausalConv1d
from moshi_agent.nn.linear import Linear
from moshi_agent.training.mimi.mel import mel_filters
from moshi_agent.training.tiny.phone_labels import LABELS, STEP, UNKNOWN


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Short windows show formants and their movement, long ones the harmonics of the voice."""

    sample_rate_hz: int = 24_000
    frame_samples: int = 1920
    windows: tuple[int, ...] = (512, 2048)
    hops: tuple[int, ...] = (240, 960)
    mel_bands: tuple[int, ...] = (80, 160)
    floor: float = 3e-4  # of magnitudes, a sine of amplitude 1 being 1
    hidden: int = 512
    steps_seen: int = 3  # frames of latents that tell of one frame

    @property
    def values(self) -> int:
        """Magnitudes of one frame."""
        return sum(
            self.frame_samples // hop * bands for hop, bands in zip(self.hops, self.mel_bands, strict=True)
        )


class Spectrum(nn.Module):
    """Log-mel magnitudes of whole frames; no window reaches beyond its frame's end."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        for index, (size, bands) in enumerate(zip(config.windows, config.mel_bands, strict=True)):
            self.register_buffer(f"window_{index}", torch.hann_window(size), persistent=False)
            filters = mel_filters(bands, size, config.sample_rate_hz)
            self.register_buffer(f"filters_{index}", filters, persistent=False)

    @torch.no_grad()
    def forward(self, signal: Tensor) -> Tensor:
        """[B, frames * frame_samples] -> [B, frames, values]."""
        return torch.cat([self._one(signal, index) for index in range(len(self.config.windows))], dim=2)

    def _one(self, signal: Tensor, index: int) -> Tensor:
        config = self.config
        size, hop = config.windows[index], config.hops[index]
        padded = F.pad(signal, (size - hop, 0))
        window = self.get_buffer(f"window_{index}")
        spectrum = torch.stft(padded, size, hop, window=window, center=False, return_complex=True)
        mel = torch.matmul(self.get_buffer(f"filters_{index}"), spectrum.abs() * (4 / size))
        logs = (mel + config.floor).log().transpose(1, 2)  # [B, steps, bands]
        return logs.unflatten(1, (-1, config.frame_samples // hop)).flatten(2)


class Probe(nn.Module):
    """Reads the spectrum from latents."""

    def __init__(self, dimension: int, config: ProbeConfig) -> None:
        super().__init__()
        self.conv = CausalConv1d(dimension, config.hidden, config.steps_seen)
        self.out = Linear(config.hidden, config.values, bias=True)

    def forward(self, latent: Tensor, spectrum: Tensor) -> Tensor:
        """Latents [B, T, dimension] and what they should tell, [B, T, values] -> a loss, scalar."""
        told = self.out(F.gelu(self.conv(latent)))
        # The values lie around -6 with a deviation of about 2.
        return F.huber_loss(told * 2 - 6, spectrum)


class PhoneProbe(nn.Module):
    """Reads the phones from latents."""

    def __init__(self, dimension: int, config: ProbeConfig) -> None:
        super().__init__()
        self.steps = config.frame_samples // STEP
        self.conv = CausalConv1d(dimension, config.hidden, config.steps_seen)
        self.out = Linear(config.hidden, self.steps * LABELS, bias=True)

    def forward(self, latent: Tensor, phones: Tensor) -> Tensor:
        """Latents [B, T, dimension] and labels [B, T * steps] -> a loss, scalar."""
        logits = self.out(F.gelu(self.conv(latent))).unflatten(2, (self.steps, LABELS)).flatten(1, 2)
        return F.cross_entropy(logits.float().transpose(1, 2), phones, ignore_index=UNKNOWN)
