"""The metrics of a codec, on codes and sounds whose metrics are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moshi_agent.training.mimi.audio_data import Batch, Place
from moshi_agent.training.mimi.distillation import Distillation, Targets
from moshi_agent.training.mimi.evaluation import Judge, codebook_metrics
from moshi_agent.training.mimi.spectral import SpectralConfig
from tests.small_models import small_mimi


def test_usage_and_perplexity_of_known_codes() -> None:
    """Four codes of eight equally often, and one code alone."""
    even = torch.arange(4).repeat(6)
    codes = torch.stack([even, torch.zeros(24, dtype=torch.long)])[None]
    metrics = codebook_metrics(codes, 8)
    assert metrics["usage_0"] == 0.5 and metrics["usage_1"] == 0.125
    assert metrics["perplexity_0"] == pytest.approx(4) and metrics["perplexity_1"] == pytest.approx(1)
    assert metrics["perplexity"] == pytest.approx(2.5)


def test_a_codec_is_judged_on_its_codes_in_use() -> None:
    """The sound is what it decodes; metrics of as many codebooks; similarity to a teacher's features."""
    model, frames = small_mimi(), 6
    audio = 0.1 * torch.randn(3, frames * 1920, generator=torch.Generator().manual_seed(1))
    batch = Batch(audio, [Place(Path("a.wav"), 0.0)] * 3)
    targets = Targets(torch.randn(3, frames, 5), torch.ones(3, frames, dtype=torch.bool))
    judge = Judge(batch, SpectralConfig(windows=(256,)), targets, Distillation(16, 5))
    model.set_num_codebooks(3)
    evaluated = judge.evaluate(model)
    with torch.no_grad():
        decoded = model.decode(model.encode(audio[:, None]))[:, 0]
    torch.testing.assert_close(evaluated.audio, decoded, rtol=1e-4, atol=1e-5)
    metrics = evaluated.metrics
    assert "usage_2" in metrics and "usage_3" not in metrics
    assert metrics["mel_distance"] > 0 and metrics["spectral"] > 0
    assert -1 <= metrics["semantic_similarity"] <= 1


def test_silence_has_no_ratio() -> None:
    batch = Batch(torch.zeros(1, 1920 * 2), [Place(Path("a.wav"), 0.0)])
    assert "si_snr_db" not in Judge(batch, SpectralConfig(windows=(256,))).evaluate(small_mimi()).metrics
