"""Muon: steps in which every direction of a weight matrix moves equally far.

From Keller Jordan's description, https://kellerjordan.github.io/posts/muon/, with the learning rate's scale of
"Muon is Scalable for LLM Training" (https://arxiv.org/abs/2502.16982), so that AdamW's rates fit. PyTorch has a
Muon, too; it takes matrices one by one and in bfloat16, which takes a processor without instructions for it longer
than the rest of a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

ITERATION = (3.4445, -4.7750, 2.0315)  # of Newton and Schulz: the description's
ITERATIONS = 5
RMS_OF_ADAMW = 0.2  # of its updates


def orthogonalised(matrices: Tensor) -> Tensor:
    """Makes all singular values of some matrices, [N, rows, columns], about one."""
    a, b, c = ITERATION
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class MuonWithAdamW(torch.optim.AdamW):
    """AdamW in which the groups with "pieces" hold matrices that move by Muon.

    A matrix in which several are stacked, such as those of queries, keys and values, is cut into so many
    "pieces" of as many rows.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, fused=True)
        self._momentum = momentum

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Makes a step with the gradients that there are."""
        groups = self.param_groups
        for group in groups:
            if "pieces" in group:
                self._muon_step(group)
        self.param_groups = [group for group in groups if "pieces" not in group]
        super().step(closure)
        self.param_groups = groups

    def _muon_step(self, group: dict[str, Any]) -> None:
        alike = defaultdict[torch.Size, list[nn.Parameter]](list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.shape].append(parameter)
        for shape, parameters in alike.items():
            updates = torch.stack([self._nesterov(parameter) for parameter in parameters])
            cut = updates.reshape(-1, shape[0] // group["pieces"], shape[1])
            scale = RMS_OF_ADAMW * max(cut.shape[1:]) ** 0.5
            steps = orthogonalised(cut).reshape(updates.shape)
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step, alpha=-group["lr"] * scale)

    def _nesterov(self, parameter: nn.Parameter) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - self._momentum)
        return gradient.lerp(state["momentum"], self._momentum)
