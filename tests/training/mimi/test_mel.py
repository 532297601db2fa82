"""Mel spectra: their unit, and filters that are those everyone has."""

from __future__ import annotations

import math

import pytest
import torch

from moshi_agent.training.mimi.mel import MelSpectrogram, mel_filters


def test_a_sine_of_amplitude_one_has_magnitude_one_where_filters_are_narrow() -> None:
    """A filter no wider than two bins takes in all of the sine's main lobe but its sides."""
    mel = MelSpectrogram(512, 256, 24_000)
    frequency_hz = 24_000 / 512 * 20
    signal = torch.sin(2 * math.pi * frequency_hz * torch.arange(24_000) / 24_000)[None]
    spectrum = mel(signal)
    assert spectrum.shape == (1, 256, 24_000 // 128 + 1)
    # A Hann window leaves half of the peak in both neighbours: up to 1, and at least the mean of 1 and 1/2.
    assert 0.7 < float(spectrum[0, :, 50].max()) <= 1.001
    assert torch.allclose(mel(0.5 * signal), 0.5 * spectrum, atol=1e-6)


def test_the_filters_are_librosas() -> None:
    """Two of `mel(sr=24000, n_fft=256, n_mels=10, fmin=64, htk=True, norm=None)`, divided by their sums."""
    filters = mel_filters(10, 256, 24_000, lowest_hz=64.0)
    sixth = [0.0027200438, 0.0147669725, 0.0268139001, 0.0388608277, 0.0509077571]
    assert torch.allclose(filters[5, 22:27], torch.tensor(sixth), atol=1e-6)
    assert int(filters[5].count_nonzero()) == 20
    last = [0.0003199590, 0.0018798526, 0.0034397461, 0.0049996395]
    assert torch.allclose(filters[9, 74:78], torch.tensor(last), atol=1e-6)


@pytest.mark.parametrize("window", [64, 512, 2048])
def test_every_filter_hears_something(window: int) -> None:
    """Also where there are more bands than bins."""
    filters = mel_filters(64, window, 24_000, lowest_hz=64.0)
    assert torch.allclose(filters.sum(1), torch.ones(64), atol=1e-5)
    assert bool((filters >= 0).all())


def test_digital_silence_has_a_finite_slope() -> None:
    silence = torch.zeros(1, 4800, requires_grad=True)
    MelSpectrogram(512, 40, 24_000)(silence).sum().backward()
    assert silence.grad is not None and bool(silence.grad.isfinite().all())
