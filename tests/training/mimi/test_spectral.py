"""Reconstruction losses: nothing for the same signal, and known values for known errors."""

from __future__ import annotations

import math

import pytest
import torch

from moshi_agent.training.mimi.spectral import SpectralConfig, SpectralLoss, si_snr_db, waveform_loss


def test_the_same_signal_has_no_loss_and_another_has() -> None:
    loss, signal = SpectralLoss(SpectralConfig(), 24_000), 0.1 * torch.randn(2, 9600)
    assert float(loss(signal, signal)) == 0
    assert float(loss(0.5 * signal, signal)) > 0
    assert float(waveform_loss(signal, signal)) == 0


def test_half_the_level_costs_what_can_be_computed_by_hand() -> None:
    """|1/2 - 1| of the mean magnitude, and the square of ln 2, at every scale alike."""
    loss = SpectralLoss(SpectralConfig(floor=1e-9), 24_000)
    signal = torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0))
    assert float(loss(0.5 * signal, signal)) == pytest.approx(0.5 + math.log(2) ** 2, rel=1e-3)


def test_silence_has_a_finite_gradient() -> None:
    silence = torch.zeros(1, 9600, requires_grad=True)
    SpectralLoss(SpectralConfig(), 24_000)(silence, torch.zeros(1, 9600)).backward()
    assert silence.grad is not None and bool(silence.grad.isfinite().all())


def test_the_signal_to_noise_ratio_is_that_of_the_noise_at_any_scale() -> None:
    """Noise that is a tenth of the signal and not correlated with it: 20 dB."""
    time = torch.arange(24_000) / 24_000
    signal, noise = torch.sin(2 * math.pi * 440 * time), torch.sin(2 * math.pi * 1000 * time)
    output = 0.3 * (signal + 0.1 * noise)
    ratio = si_snr_db(output[None], signal[None])
    assert ratio.tolist() == pytest.approx([20.0], abs=0.01)
    assert bool(si_snr_db(output[None], torch.zeros(1, 24_000)).isnan())
