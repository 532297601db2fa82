"""The discriminator and what is learnt from its verdicts."""

from __future__ import annotations

import pytest
import torch

from moshi_agent.training.mimi.adversarial import adversarial_loss, discriminator_loss, feature_loss
from moshi_agent.training.mimi.discriminator import Discriminator, DiscriminatorConfig, Verdict

SMALL = DiscriminatorConfig(filters=4, windows=(256, 128))


def verdicts(*logits: float) -> list[Verdict]:
    """One scale for each, with a single feature of the same value."""
    return [Verdict(torch.tensor([[one]]), [torch.tensor([[one]])]) for one in logits]


def test_hinges_are_those_of_the_paper() -> None:
    """max(0, 1 - real) + max(0, 1 + decoded), the mean over scales; the codec's is minus the logit."""
    real, decoded = verdicts(0.5, 3.0), verdicts(-0.25, -4.0)
    assert float(discriminator_loss(real, decoded)) == pytest.approx((0.5 + 0.75 + 0 + 0) / 2)
    assert float(discriminator_loss(verdicts(0.0), verdicts(0.0))) == 2
    assert float(adversarial_loss(decoded)) == pytest.approx((0.25 + 4.0) / 2)


def test_the_feature_loss_is_a_distance_that_moves_the_decoded_side_only() -> None:
    right, wrong = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 1.0], requires_grad=True)
    loss = feature_loss([Verdict(right, [right])], [Verdict(wrong, [wrong])])
    assert loss.item() == 1.5
    loss.backward()
    assert right.grad is None and wrong.grad is not None


def test_every_scale_sees_the_whole_signal() -> None:
    """Frames of a quarter window; bins are halved three times."""
    judged = Discriminator(DiscriminatorConfig(filters=4))(torch.randn(2, 4800))
    assert len(judged) == 5
    first = judged[0]
    frames = (4800 - 1024) // 256 + 1
    assert first.logits.shape == (2, 1, frames, 65)
    assert [list(one.shape) for one in first.features][:2] == [[2, 4, frames, 513], [2, 4, frames, 257]]


def test_a_piece_shorter_than_a_window_is_judged_all_the_same() -> None:
    assert Discriminator(SMALL)(torch.randn(1, 100))[0].logits.shape[0] == 1


def test_it_learns_to_tell_noise_from_a_tone() -> None:
    """From 2, where it knows nothing, its loss falls towards 0, where it is sure."""
    torch.manual_seed(0)
    model = Discriminator(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.5, 0.9))
    tone = 0.1 * torch.sin(torch.arange(2400) * 0.1).expand(4, -1)
    losses = []
    for _ in range(60):
        loss = discriminator_loss(model(tone), model(0.1 * torch.randn(4, 2400)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert losses[-1] < 0.5
