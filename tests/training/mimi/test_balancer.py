"""The balancer: weights are shares of the gradient, whatever the scale of a loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moshi_agent.training.mimi.balancer import Balancer

ROWS = 3


def losses(output: Tensor, scale: float) -> dict[str, Tensor]:
    """Two whose gradients are at right angles in every row."""
    return {"a": scale * output[:, :4].square().mean(), "b": output[:, 4:].abs().mean()}


@given(weights=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), scale=st.floats(1e-3, 1e3))
def test_gradient_norms_follow_the_weights(weights: tuple[float, float], scale: float) -> None:
    """Of a norm of 1 for each row, each loss has the share that its weight says."""
    output = (torch.ones(ROWS, 8) + torch.arange(8.0)).requires_grad_()
    gradient = Balancer(dict(zip("ab", weights, strict=True))).gradient(losses(output, scale), output)
    total = sum(weights)
    for part, weight in ((gradient[:, :4], weights[0]), (gradient[:, 4:], weights[1])):
        norms = part.norm(dim=1) * ROWS
        assert norms.tolist() == pytest.approx([weight / total] * ROWS, rel=1e-4)


def test_the_norms_are_running_means() -> None:
    """A loss that grows tenfold for one step is held to what it was, which one decay forgets faster."""
    output = torch.ones(ROWS, 8).requires_grad_()
    slow, fast = Balancer({"a": 1.0, "b": 1.0}, decay=0.9), Balancer({"a": 1.0, "b": 1.0}, decay=0.1)
    for balancer in (slow, fast):
        for _ in range(10):
            balancer.gradient(losses(output, 1.0), output)
    grown = [
        balancer.gradient(losses(output, 10.0), output)[:, :4].norm().item() for balancer in (slow, fast)
    ]
    usual = slow.gradient(losses(output, 1.0), output)[:, 4:].norm().item()
    assert grown[0] > 3 * usual
    assert grown[1] < 1.5 * usual


def test_its_state_is_saved() -> None:
    output = torch.ones(ROWS, 8).requires_grad_()
    first, second = Balancer({"a": 1.0, "b": 2.0}), Balancer({"a": 1.0, "b": 2.0})
    first.gradient(losses(output, 3.0), output)
    second.load_state_dict(first.state_dict())
    same = [balancer.gradient(losses(output, 1.0), output) for balancer in (first, second)]
    assert torch.equal(*same)
