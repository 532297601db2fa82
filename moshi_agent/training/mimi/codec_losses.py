"""What the codec is trained against: spectra at several resolutions, the level, and the waveform itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moshi_agent.training.mimi.mel import MelSpectrogram


@dataclass(frozen=True, kw_only=True)
class CodecLossConfig:
    """Sets resolutions and weights. A sine of amplitude 1 has magnitude 1."""

    sample_rate_hz: int = 24_000
    windows: tuple[int, ...] = (2048, 1024, 512, 256)
    mel_bands: tuple[int, ...] = (160, 120, 80, 40)  # one per window
    spectral_floor: float = 3e-4
    level_window_ms: float = 20.0
    level_floor: float = 3e-4  # -70 dBFS
    first_floor: float = 1e-3  # of both in the first step
    floor_steps: int = 1500  # until the floors are down
    spectral_weight: float = 1.0
    energy_weight: float = 2.0
    level_weight: float = 0.1


class CodecLoss(nn.Module):
    """Measures the distance between a signal and its reconstruction."""

    def __init__(self, config: CodecLossConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CodecLossConfig()
        resolutions = zip(config.windows, config.mel_bands, strict=True)
        self.mels = nn.ModuleList(
            MelSpectrogram(size, bands, config.sample_rate_hz) for size, bands in resolutions
        )

    def forward(self, output: Tensor, target: Tensor, step: int | None = None) -> dict[str, Tensor]:
        """Computes weighted terms, summing to the loss, of two signals [B, T]. No step: the final floors."""
        config = self.config
        floor = self._lowered(config.spectral_floor, step)
        level_floor = self._lowered(config.level_floor, step)
        spectral, energy = output.new_zeros(()), output.new_zeros(())
        for mel in self.mels:
            ours, theirs = mel(output) + floor, mel(target) + floor
            spectral = spectral + _squared_below_one(ours.log() - theirs.log())
            # Loud parts count most here; relative to the batch, so that no batch outweighs another.
            energy = energy + (ours.sqrt() - theirs.sqrt()).square().mean() / theirs.mean()
        level = self._level(output, level_floor) - self._level(target, level_floor)
        return {
            "spectral": config.spectral_weight * spectral / len(config.windows),
            "energy": config.energy_weight * energy / len(config.windows),
            "level": config.level_weight * _squared_below_one(level),
        }

    @torch.no_grad()
    def log_mel_distance(self, output: Tensor, target: Tensor) -> float:
        """Averages absolute differences of log magnitudes over all resolutions, of two signals [B, T]."""
        floor = self.config.spectral_floor
        pairs = [(mel(output) + floor, mel(target) + floor) for mel in self.mels]
        return sum(float((ours.log() - theirs.log()).abs().mean()) for ours, theirs in pairs) / len(pairs)

    def _lowered(self, floor: float, step: int | None) -> float:
        done = 1.0 if step is None else min(step / self.config.floor_steps, 1.0)
        return self.config.first_floor ** (1 - done) * floor**done

    def _level(self, signal: Tensor, floor: float) -> Tensor:
        """[B, T] -> log rms of overlapping pieces [B, pieces]."""
        size = int(self.config.sample_rate_hz * self.config.level_window_ms / 1000)
        power = F.avg_pool1d(signal.square()[:, None], size, size // 2)[:, 0]
        return (power + floor**2).log() / 2


def _squared_below_one(difference: Tensor) -> Tensor:
    """Huber's loss. Where all is nearly right, as in silence, its slope is nearly nothing: an absolute
    difference would go on pulling with all its force and drown what speech has to say."""
    return F.huber_loss(difference, torch.zeros_like(difference))
