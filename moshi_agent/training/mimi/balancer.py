"""The loss balancer of EnCodec: a weight says which share of the gradient a loss has, whatever its scale.

Défossez et al. 2022, arXiv:2210.13438, section 3.4, equation 5.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moshi_agent.training.runs.distributed import average_over_processes

_LEAST_NORM = 1e-12


class Balancer(nn.Module):
    """Rescales the gradients of several losses on one output, by running means of their norms."""

    sums: Tensor  # [losses], of norms, decayed
    weight_of_sums: Tensor  # [], what `sums` has to be divided by

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999) -> None:
        """Takes the weights, above 0, of the losses that `gradient` will be given."""
        super().__init__()
        self.weights = dict(weights)
        self.decay = decay
        self.register_buffer("sums", torch.zeros(len(weights)))
        self.register_buffer("weight_of_sums", torch.zeros(()))

    def gradient(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """Computes what goes back through `output`, [B, T], in place of the losses' own gradients.

        Each loss gives, in the running mean, `weight / sum of weights` of a norm of 1 per row; like the
        gradient of a mean over rows, the whole is divided by their number.
        """
        gradients = [
            torch.autograd.grad(losses[name], output, retain_graph=True)[0].float() for name in self.weights
        ]
        norms = torch.stack([gradient.flatten(1).norm(dim=1).mean() for gradient in gradients])
        means = self._running_means(average_over_processes(norms))
        total = sum(self.weights.values())
        balanced = torch.zeros_like(output, dtype=torch.float32)
        for index, weight in enumerate(self.weights.values()):
            share = weight / total / len(output)
            balanced += gradients[index] * (share / means[index].clamp(min=_LEAST_NORM))
        return balanced.to(output.dtype)

    def _running_means(self, norms: Tensor) -> Tensor:
        """[losses] -> [losses]; from the first step on, without a bias towards zero."""
        self.sums.mul_(self.decay).add_(norms)
        self.weight_of_sums.mul_(self.decay).add_(1)
        return self.sums / self.weight_of_sums
