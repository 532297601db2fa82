"""The losses of a fine-tuning are those of moshi-finetune."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.nn.embedding import ZERO_TOKEN
from moshi_agent.training.finetune.config import NoiseConfig
from moshi_agent.training.finetune.losses import Objective, ObjectiveConfig, with_noise
from tests.small_models import small_lm
from tests.training.finetune.finetune_material import Echoes

CONFIG = ObjectiveConfig(first_codebook_weight=100.0, text_padding_weight=0.5)


def _expected(logits: Tensor, target: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Its formula: cross entropies times weights over the sum of the weights, of what the mask has."""
    weights = weights * mask
    losses = F.cross_entropy(logits[mask], target[mask], reduction="none")
    return (losses * weights[mask]).sum() / weights.sum()


@torch.no_grad()
@pytest.mark.parametrize("valid", [20, 13], ids=["whole", "padded"])
def test_both_losses_are_those_of_the_models_own_logits(valid: int) -> None:
    """`LMModel.forward` gives what the peer's does; its masks say which tokens have a prediction."""
    lm, batch = small_lm(), Echoes(valid=valid).batch(0, 3)
    batch.codes[:, 0, 3:6] = torch.tensor([3, 3, 0])
    out = lm(batch.codes)
    text = batch.codes[:, :1]
    padding = torch.where((text == 3) | (text == 0), 0.5, 1.0)
    first = torch.ones(3, 2, 20)
    first[:, 0] = 100.0
    losses = Objective(lm, CONFIG)(batch)
    torch.testing.assert_close(losses["text"], _expected(out.text_logits, text, out.text_mask, padding))
    torch.testing.assert_close(losses["audio"], _expected(out.logits, batch.codes[:, 1:3], out.mask, first))


@torch.no_grad()
def test_the_users_codes_are_heard_but_no_target() -> None:
    """A model that gives the user's codes no heed has the same losses whatever they are."""
    lm, batch = small_lm(), Echoes().batch(0, 3)
    for table in lm.emb[lm.dep_q :]:
        table.weight.zero_()
    changed = batch.codes.clone()
    changed[:, 1 + lm.dep_q :] = 5
    objective = Objective(lm, CONFIG)
    assert objective(batch) == objective(dataclasses.replace(batch, codes=changed))


@torch.no_grad()
def test_a_share_of_the_frames_has_the_mean_of_all() -> None:
    """Over many draws the audio's loss is what it is on all frames; the text's is always that."""
    lm, batch = small_lm(), Echoes(frames=50).batch(0, 4)
    whole = Objective(lm, CONFIG)(batch)
    part = Objective(lm, dataclasses.replace(CONFIG, depth_share=0.3))
    drawn = [part(batch, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert all(one["text"] == whole["text"] for one in drawn)
    audio = torch.stack([one["audio"] for one in drawn])
    assert audio.std() > 0.01
    assert abs(audio.mean() - whole["audio"]) < 4 * audio.std() / 40**0.5


@torch.no_grad()
def test_a_batch_of_nothing_has_no_loss_and_no_nan() -> None:
    batch = Echoes(valid=0).batch(0, 2)
    losses = Objective(small_lm(), CONFIG)(batch)
    assert {name: value.item() for name, value in losses.items()} == {"text": 0.0, "audio": 0.0}


def test_noise_is_where_it_is_asked_for_and_never_where_nothing_is() -> None:
    lm, codes = small_lm(), Echoes(frames=200, valid=150).batch(0, 4).codes
    noise = NoiseConfig(text=0.2, own=0.3, user=0.4)
    noisy = with_noise(lm, codes, noise, torch.Generator().manual_seed(0))
    changed = (noisy != codes).float().mean((0, 2)) / 0.75
    # Of random codes, one in `card` is the code that was there.
    expected = torch.tensor([0.2, 0.3, 0.3, 0.0, 0.4])
    torch.testing.assert_close(changed, expected, rtol=0, atol=0.06)
    assert bool((noisy[..., 150:] == ZERO_TOKEN).all())
    assert set(noisy[:, 0][noisy[:, 0] != codes[:, 0]].tolist()) == {lm.config.text_padding_id}


@torch.no_grad()
def test_noise_is_on_what_is_read_and_not_on_what_is_learnt() -> None:
    """All text replaced where it is read: the loss is that of the text as it was, from another input."""
    lm, batch = small_lm(), Echoes().batch(0, 3)
    objective = Objective(lm, dataclasses.replace(CONFIG, noise=NoiseConfig(text=1.0)))
    replaced = dataclasses.replace(batch, codes=batch.codes.clone())
    replaced.codes[:, 0] = 3
    noisy = objective(batch, torch.Generator().manual_seed(0))["text"]
    logits = lm(replaced.codes).text_logits[:, 0]
    torch.testing.assert_close(noisy, F.cross_entropy(logits.transpose(1, 2), batch.codes[:, 0]))
    assert objective(batch)["text"] != noisy


def test_lower_precision_changes_little() -> None:
    """And every weight still has a gradient of its own type."""
    lm, batch = small_lm(), Echoes().batch(0, 3)
    whole = Objective(lm, CONFIG)(batch)
    lower = Objective(lm, dataclasses.replace(CONFIG, dtype=torch.bfloat16))(batch)
    for name in whole:
        torch.testing.assert_close(whole[name], lower[name], rtol=0.02, atol=0)
        assert whole[name].item() != lower[name].item()
    (lower["text"] + lower["audio"]).backward()
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in lm.parameters())
