"""The reconstruction losses of EnCodec: mel spectra at many scales, and the waveform itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moshi_agent.training.mimi.mel import MelSpectrogram


@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    """Sets the scales of the spectral loss."""

    windows: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    mel_bands: int = 64
    lowest_hz: float = 64.0
    floor: float = 1e-4  # of magnitudes, a sine of amplitude 1 being 1


class SpectralLoss(nn.Module):
    """Computes L1 between mel magnitudes and L2 between their logarithms, the mean over all scales.

    Défossez et al. 2022 (arXiv:2210.13438, equation 2). The L1 is relative to the target's mean, so that its
    share does not depend on how loud the data are.
    """

    def __init__(self, config: SpectralConfig, sample_rate_hz: int) -> None:
        super().__init__()
        self.floor = config.floor
        self.mels = nn.ModuleList(
            MelSpectrogram(size, config.mel_bands, sample_rate_hz, config.lowest_hz)
            for size in config.windows
        )

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Computes the loss of two signals [B, T], a scalar."""
        total = output.new_zeros(())
        for mel in self.mels:
            ours, theirs = mel(output), mel(target)
            linear = (ours - theirs).abs().mean() / (theirs.mean() + self.floor)
            logarithmic = ((ours + self.floor).log() - (theirs + self.floor).log()).square().mean()
            total = total + linear + logarithmic
        return total / len(self.mels)


def waveform_loss(output: Tensor, target: Tensor) -> Tensor:
    """Computes the mean absolute difference of two signals [B, T], a scalar."""
    return (output - target).abs().mean()


@torch.no_grad()
def si_snr_db(output: Tensor, target: Tensor) -> Tensor:
    """Computes the scale-invariant SNR (Le Roux et al. 2019, arXiv:1811.02508). [B, T] -> [B] in dB

    Where the target is silent there is nothing to compare with, and the value is NaN.
    """
    output, target = (signal - signal.mean(1, keepdim=True) for signal in (output, target))
    energy = target.square().sum(1, keepdim=True)
    heard = (output * target).sum(1, keepdim=True) / energy * target
    ratio = heard.square().sum(1) / (output - heard).square().sum(1).clamp(min=1e-12)
    return torch.where(energy[:, 0] > 1e-8, 10 * ratio.clamp(min=1e-12).log10(), torch.nan)
