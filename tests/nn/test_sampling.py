"""Sampling: the right distribution, and random numbers that belong to the row."""

from __future__ import annotations

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.nn.counter_random import uniform
from moshi_agent.nn.sampling import RowSampling


def _draw(logits: Tensor, config: SamplingConfig, rows: int, first_step: int = 0) -> Tensor:
    """One draw in each of `rows` rows that share logits and seed and stand at successive steps."""
    settings = RowSampling(rows, torch.device("cpu"), config)
    steps = first_step + torch.arange(rows)
    return settings.draws(steps, len(logits), 0, streams=1).sample(logits.expand(rows, -1), 0)


def test_draws_follow_the_softmax() -> None:
    """Over many steps each token comes up as often as the tempered softmax says."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    counts = torch.bincount(_draw(logits, SamplingConfig(temp_text=0.7, top_k_text=0), 40_000), minlength=5)
    wanted = (logits / 0.7).softmax(-1)
    assert (counts / 40_000 - wanted).abs().max() < 0.01


def test_the_largest_and_the_smallest_random_number_are_finite_noise() -> None:
    """One in 16 million numbers would else be drawn whatever the logits are: every few minutes of a call."""
    numbers = uniform(torch.tensor([-1, 2**63 - 1, 0, -(2**63)]))
    assert ((numbers > 0) & (numbers < 1)).all()
    assert (-torch.log(-torch.log(numbers))).isfinite().all()


def test_top_k_and_top_p_keep_what_they_say() -> None:
    """Nothing outside the k best, or outside the smallest set that holds p, is ever drawn."""
    logits = torch.tensor([0.0, 3.0, 2.9, 1.0, 2.0])
    assert set(_draw(logits, SamplingConfig(top_k_text=2, temp_text=2.0), 2000).tolist()) == {1, 2}
    probabilities = logits.softmax(-1)
    assert probabilities[1] < 0.5 < probabilities[1] + probabilities[2]
    drawn = _draw(logits, SamplingConfig(top_k_text=0, top_p_text=0.5, temp_text=1.0), 2000)
    assert set(drawn.tolist()) == {1, 2}


def test_a_row_draws_the_same_in_any_company() -> None:
    """Neighbours, their settings and the row's place change nothing; seed and step do."""
    torch.manual_seed(0)
    logits = torch.randn(6, 50)
    alone = RowSampling(1, torch.device("cpu"), SamplingConfig(seed=7, top_k_text=10, top_k=5))
    step = torch.tensor([5])
    wanted = alone.draws(step, 50, 50, streams=3)
    crowd = RowSampling(
        6, torch.device("cpu"), SamplingConfig(seed=1, top_k_text=0, temp_text=3.0, top_p=0.9)
    )
    crowd.set_row(3, SamplingConfig(seed=7, top_k_text=10, top_k=5))
    steps = torch.tensor([0, 1, 2, 5, 9, 9])
    together = crowd.draws(steps, 50, 50, streams=3)
    for stream in range(3):
        assert together.sample(logits, stream)[3] == wanted.sample(logits[3:4], stream)[0]
    seeds = {int(_draw(torch.zeros(1000), SamplingConfig(seed=seed, top_k_text=0), 1)) for seed in range(20)}
    assert len(seeds) > 15


def test_a_greedy_row_takes_the_best_beside_rows_that_sample() -> None:
    """Temperature 0 is the best token, whatever the neighbours do."""
    rows = RowSampling(2, torch.device("cpu"), SamplingConfig(temp_text=5.0, top_k_text=0))
    rows.set_row(1, SamplingConfig(greedy=True))
    logits = torch.tensor([[0.0, 1.0, 0.9]] * 2)
    steps = [torch.tensor([i, i]) for i in range(50)]
    drawn = [rows.draws(step, 3, 0, streams=1).sample(logits, 0)[1].item() for step in steps]
    assert drawn == [1] * 50
    assert not rows.all_greedy


def test_the_streams_of_a_step_draw_apart() -> None:
    """Every stream, step and seed has numbers of its own."""
    rows = RowSampling(
        40, torch.device("cpu"), SamplingConfig(top_k=0, top_k_text=0, temp=1.0, temp_text=1.0)
    )
    draws = rows.draws(torch.arange(40), 1000, 1000, streams=9)
    flat = torch.zeros(40, 1000)
    drawn = torch.stack([draws.sample(flat, stream) for stream in range(9)])
    assert len(drawn.unique()) > 280  # of 360 draws among a thousand, about 302 values differ
