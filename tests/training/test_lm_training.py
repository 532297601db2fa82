"""The language model learns from encoded calls and goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.training.lm import LMTrainer, LMTraining
from moshi_agent.training.lm_data import LMData
from moshi_agent.training.lm_losses import LMLossConfig, delayed
from moshi_agent.training.loop import run_training
from tests.training.training_material import CODEBOOKS, QUIET, echoing_calls, narrow_lm

TRAINING = LMTraining(
    steps=40, batch=4, frames=40, question_batch=8, question_frames=20, learning_rate=1e-2, bfloat16=False
)


def test_the_model_learns() -> None:
    """Text, codes and what is asked are all learnt where they follow from the caller's codes."""
    trainer = LMTrainer(narrow_lm(), TRAINING, echoing_calls())
    first = trainer.train_step()
    while trainer.step < TRAINING.steps:
        last = trainer.train_step()
    assert all(last[term] < 0.75 * first[term] for term in ("text", "audio", "asked"))


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Stopped half-way and resumed, the averaged model comes out equal."""
    config = replace(TRAINING, steps=8)
    whole = LMTrainer(narrow_lm(), config, echoing_calls())
    run_training(whole, config.run, tmp_path / "whole")
    for steps in (4, 8):
        part = LMTrainer(narrow_lm(), config, echoing_calls())
        run_training(part, replace(config.run, steps=steps), tmp_path / "parts")
    for ours, theirs in zip(part.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_loss_agrees_with_the_model_s_own_forward() -> None:
    """Without noise the text term is the cross entropy of `LMModel.forward`'s logits."""
    noiseless = LMLossConfig(own_noise=0, user_noise=0, text_noise=0, fewer_codebooks_share=0, gap_share=0)
    losses = replace(noiseless, padding_weight=1.0, spoken_share=1.0, quiet_share=1.0)
    trainer = LMTrainer(narrow_lm(), replace(TRAINING, losses=losses), echoing_calls())
    batch = trainer.draw()
    out = trainer.model(batch.codes)
    text = torch.nn.functional.cross_entropy(out.text_logits[:, 0].transpose(1, 2), batch.codes[:, 0])
    terms = trainer.loss(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(terms["text"], text)
    audio = [
        torch.nn.functional.cross_entropy(out.logits[:, k, 1:-1].transpose(1, 2), batch.codes[:, 1 + k, 1:-1])
        for k in range(CODEBOOKS)
    ]
    weighted = sum(w * a for w, a in zip((losses.first_codebook_weight, 1, 1, 1), audio, strict=True))
    # The first and the last frame of a crop have only some of their codebooks.
    difference = terms["audio"] - weighted / (losses.first_codebook_weight + 3)
    assert abs(difference.item()) < 0.05


def test_delays_stand_behind_one_initial_token() -> None:
    """As in the model itself."""
    model = LMModel(narrow_lm())
    codes = torch.randint(0, 12, (2, 9, 10))
    tokens = delayed(model, codes)
    assert tokens[0, :, 0].tolist() == model.initial_tokens().tolist()
    assert torch.equal(tokens[:, 0, 1:], codes[:, 0])
    assert torch.equal(tokens[:, 2, 2:], codes[:, 2, :-1])
    assert int(tokens[0, 2, 1]) == model.card


def test_crops_are_pieces_of_calls() -> None:
    """Each crop's text, codes and question come from the same frames of one call."""
    data = echoing_calls()
    codes, asked, begins = data.crops(np.random.default_rng(1), 5, 30)
    assert begins.shape == (5,)
    assert codes.shape == (5, 1 + 2 * CODEBOOKS, 30) and asked.shape == (5, 30)
    assert (codes[:, 1 + CODEBOOKS] == asked + 5).all()
    assert set(np.unique(codes[:, 1])) <= {QUIET, 5, 6, 7}


def test_a_folder_without_calls_is_refused(tmp_path: Path) -> None:
    """The error says where they should have been."""
    with pytest.raises(ConfigError, match="no encoded calls"):
        LMData.open(tmp_path)
