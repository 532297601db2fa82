"""Sampling: the right distribution, and random numbers that belong to the row."""

from __future__ import annotations

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.nn.sampling import RowSampling, sample


def _draw(logits: Tensor, config: SamplingConfig, rows: int, first_step: int = 0) -> Tensor:
    """One draw in each of `rows` rows that share logits and seed and stand at successive steps."""
    settings = RowSampling(rows, torch.device("cpu"), config)
    steps = first_step + torch.arange(rows)
    candidates = settings.widest(text=True, card=logits.shape[-1])
    return sample(logits.expand(rows, -1), settings.text, settings.seed, steps, 0, candidates)


def test_draws_follow_the_softmax() -> None:
    """Over many steps each token comes up as often as the tempered softmax says."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    counts = torch.bincount(_draw(logits, SamplingConfig(temp_text=0.7, top_k_text=0), 40_000), minlength=5)
    wanted = (logits / 0.7).softmax(-1)
    assert (counts / 40_000 - wanted).abs().max() < 0.01


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
    alone = RowSampling(1, torch.device("cpu"), SamplingConfig(seed=7, top_k_text=10))
    step = torch.tensor([5])
    wanted = sample(logits[3:4], alone.text, alone.seed, step, 2, alone.widest(True, 50))
    crowd = RowSampling(6, torch.device("cpu"), SamplingConfig(seed=1, top_k_text=0, temp_text=3.0))
    crowd.set_row(3, SamplingConfig(seed=7, top_k_text=10))
    steps = torch.tensor([0, 1, 2, 5, 9, 9])
    together = sample(logits, crowd.text, crowd.seed, steps, 2, crowd.widest(True, 50))
    assert together[3] == wanted[0]
    seeds = {int(_draw(torch.zeros(1000), SamplingConfig(seed=seed, top_k_text=0), 1)) for seed in range(20)}
    assert len(seeds) > 15


def test_a_greedy_row_takes_the_best_beside_rows_that_sample() -> None:
    """Temperature 0 is the best token, whatever the neighbours do."""
    rows = RowSampling(2, torch.device("cpu"), SamplingConfig(temp_text=5.0, top_k_text=0))
    rows.set_row(1, SamplingConfig(greedy=True))
    logits = torch.tensor([[0.0, 1.0, 0.9]] * 2)
    drawn = [sample(logits, rows.text, rows.seed, torch.tensor([i, i]), 0, 3)[1].item() for i in range(50)]
    assert drawn == [1] * 50
    assert not rows.all_greedy
