"""Encoder and decoder learn, go on where they stopped, and leave alone what they should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moshi_agent.training.mimi.codec_losses import CodecLoss
from moshi_agent.training.tiny.decoder import DecoderTrainer, DecoderTraining
from moshi_agent.training.tiny.encoder import EncoderTrainer, EncoderTraining
from moshi_agent.training.tiny.freeze import frozen, load_codec, save_weights
from moshi_agent.training.tiny.probe import ProbeConfig, Spectrum
from moshi_agent.training.tiny.stage import run_training
from tests.small_models import small_mimi_config
from tests.training.tiny.training_material import tones

ENCODER = EncoderTraining(
    steps=40,
    batch=2,
    frames=4,
    learning_rate=3e-3,
    continuous_steps=8,
    pool_steps=6,
    bfloat16=False,
    probe=ProbeConfig(hidden=32),
)
DECODER = DecoderTraining(steps=30, batch=2, frames=4, learning_rate=1e-2, bfloat16=False)


@pytest.fixture(scope="module")
def encoder() -> EncoderTrainer:
    """Trained for a few steps."""
    trainer = EncoderTrainer(small_mimi_config(), ENCODER, tones)
    while trainer.step < ENCODER.steps:
        trainer.train_step()
    return trainer


def test_a_perfect_reconstruction_has_no_loss() -> None:
    """Every term is zero for the signal itself and positive for another."""
    loss = CodecLoss()
    signal = torch.randn(1, 9600) * 0.1
    assert all(float(term) == 0 for term in loss(signal, signal).values())
    assert all(float(term) > 0 for term in loss(signal * 0.3, signal).values())
    assert loss.log_mel_distance(signal, signal) == 0


def test_silence_has_finite_gradients() -> None:
    """Digital silence, where roots and logarithms are steepest, does not make the slope infinite."""
    silence = torch.zeros(1, 9600, requires_grad=True)
    torch.stack(list(CodecLoss()(silence, torch.zeros(1, 9600)).values())).sum().backward()
    assert silence.grad is not None and bool(silence.grad.isfinite().all())


def test_a_frame_s_spectrum_depends_on_no_later_sample() -> None:
    """Changing a frame leaves the spectra of the frames before it as they were."""
    spectrum = Spectrum(ProbeConfig())
    signal = torch.randn(1, 4 * 1920)
    changed = signal.clone()
    changed[:, 2 * 1920 :] = 0
    before, after = spectrum(signal), spectrum(changed)
    assert before.shape == (1, 4, ProbeConfig().values)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_the_encoder_learns(encoder: EncoderTrainer) -> None:
    """A few steps on tones lower what the probes get wrong; the codebooks are set on the way."""
    fresh = EncoderTrainer(small_mimi_config(), ENCODER, tones)
    first, last = fresh.train_step(), encoder.train_step()
    assert last["all"] < 0.7 * first["all"]
    assert last["phones"] < 0.9 * first["phones"]
    assert float(encoder.model.quantizer.rvq_rest.codebook(2).initialized) == 1


def test_a_stopped_encoder_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Stopped in the continuous steps and resumed, every weight and codebook comes out equal."""
    whole = EncoderTrainer(small_mimi_config(), replace(ENCODER, steps=12), tones)
    run_training(whole, tmp_path / "whole")
    for steps in (6, 12):
        part = EncoderTrainer(small_mimi_config(), replace(ENCODER, steps=12), tones)
        run_training(part, tmp_path / "parts", until=steps)
    for ours, theirs in zip(
        part.average.state_dict().values(), whole.average.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_stage_goes_on_from_the_single_file_that_it_used_to_keep(tmp_path: Path) -> None:
    """A stage that was begun before stages had folders comes to the same weights."""
    config = replace(ENCODER, steps=8)
    whole, begun, again = (EncoderTrainer(small_mimi_config(), config, tones) for _ in range(3))
    run_training(whole, tmp_path / "whole")
    for _ in range(5):
        begun.train_step()
    (tmp_path / "old").mkdir()
    torch.save(begun.content(), tmp_path / "old" / "encoder_checkpoint.pt")
    run_training(again, tmp_path / "old")
    metrics = (tmp_path / "old" / "encoder" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [6, 7, 8]
    for ours, theirs in zip(
        again.average.state_dict().values(), whole.average.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_decoder_learns_and_the_codes_stay(encoder: EncoderTrainer) -> None:
    """Its training lowers the loss and changes nothing that makes codes."""
    codec = frozen(encoder.average)
    signal = torch.from_numpy(tones(np.random.default_rng(3), 2, 8 * 1920).heard)[:, None]
    before = codec.encode(signal)
    trainer = DecoderTrainer(codec, DECODER, tones)
    losses = [trainer.train_step()["loss"] for _ in range(DECODER.steps)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert torch.equal(frozen(trainer.average).encode(signal), before)


def test_a_frozen_codec_is_what_bfloat16_holds(encoder: EncoderTrainer, tmp_path: Path) -> None:
    """Written and read again it gives the same codes, and rounding it once more changes nothing."""
    codec = frozen(encoder.average)
    for tensor in codec.state_dict().values():
        assert torch.equal(tensor, tensor.to(torch.bfloat16).float())
    save_weights(codec, tmp_path / "codec.pt")
    signal = torch.from_numpy(tones(np.random.default_rng(3), 1, 8 * 1920).heard)[:, None]
    again = load_codec(tmp_path / "codec.pt", small_mimi_config())
    assert torch.equal(again.encode(signal), codec.encode(signal))
