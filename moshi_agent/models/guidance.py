"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

The model runs twice, as wanted and as unwanted, and its logits are moved away from the unwanted ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.errors import InputError
from moshi_agent.models.lm import Conditions
from moshi_agent.nn.attention import CrossSource
from moshi_agent.nn.embedding import ZERO_TOKEN


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Moves logits away from those of an unwanted half of the rows."""

    coef: float
    conditions: Conditions  # of the unwanted half
    masked_until: Tensor | None = None  # [B] int64, it sees no tokens up to this step
    no_text: bool = False  # it sees no text, and the text is not guided

    def guide(self, wanted: Tensor, unwanted: Tensor) -> Tensor:
        """Combines the logits of both halves, [*] each -> [*]."""
        return unwanted + (wanted - unwanted) * self.coef

    def unwanted_tokens(self, tokens: Tensor, is_initial: Tensor, offset: Tensor, delays: Tensor) -> Tensor:
        """Returns what the unwanted half reads, [B, streams]. offset: [B], delays: [streams]."""
        if self.masked_until is not None:
            until = self.masked_until[:, None] + delays
            tokens = torch.where((offset[:, None] <= until) & ~is_initial, ZERO_TOKEN, tokens)
        if self.no_text:
            text = torch.where(is_initial[:, :1], tokens[:, :1], ZERO_TOKEN)
            tokens = torch.cat([text, tokens[:, 1:]], dim=1)
        return tokens


def split_conditions(conditions: Conditions) -> tuple[Conditions, Conditions]:
    """Splits conditions into those of the wanted rows, which come first, and of the unwanted ones.

    Raises:
        InputError: an odd number of rows, or conditions that are read before the first step.
    """
    if conditions.prepend is not None:
        raise InputError("guidance (cfg_coef) of a model with a condition before its first step; accepted: 1")
    sums = _halves(conditions.sum)
    crosses = _halves(None if conditions.cross is None else conditions.cross.tensor)
    wanted, unwanted = (
        Conditions(sum_, None if cross is None else CrossSource(cross))
        for sum_, cross in zip(sums, crosses, strict=True)
    )
    return wanted, unwanted


def _halves(part: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if part is None:
        return None, None
    if len(part) % 2:
        raise InputError(f"guided conditions of {len(part)} rows; accepted: twice the batch")
    wanted, unwanted = part.chunk(2)
    return wanted, unwanted
