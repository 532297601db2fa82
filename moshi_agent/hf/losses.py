"""Losses over known conversations: which position predicts which token.

A step's hidden state leads to the text token of the next step and, with it, to the codes of the next step.
That is how the model was trained and how it generates, and so it is the alignment here ("model").

transformers 4.57.6 aligns otherwise ("transformers"): its text labels are shifted twice, so that a step
predicts the token after the next, and its audio labels are not shifted at all, so that the depth transformer
predicts codes that the hidden state has read. Both are here, to compare.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from moshi_agent.errors import InputError

Alignment = Literal["model", "transformers"]

IGNORED = -100


def check_alignment(alignment: str) -> None:
    """Raises InputError for an alignment that is none."""
    if alignment not in ("model", "transformers"):
        raise InputError(f"loss_alignment={alignment!r}; accepted: model, transformers")


def text_loss(logits: Tensor, labels: Tensor, alignment: Alignment = "model") -> Tensor:
    """Cross-entropy of the text, []. logits: [B, T, card], labels: [B, T], -100 where there is none.

    Raises:
        InputError: labels of another shape, or out of range.
    """
    check_alignment(alignment)
    if labels.shape != logits.shape[:2]:
        raise InputError(f"labels of shape {list(labels.shape)}; accepted: {list(logits.shape[:2])}")
    flat = logits[:, :-1].float().flatten(0, 1)
    wanted = labels[:, 1:].to(logits.device).flatten()
    if alignment == "transformers":
        flat, wanted = flat[:-1], wanted[1:]
    return cross_entropy(flat, wanted)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that are not -100. logits: [N, card], labels: [N] -> [].

    Raises:
        InputError: a label out of range.
    """
    card = logits.shape[-1]
    wrong = (labels != IGNORED) & ((labels < 0) | (labels >= card))
    if not wrong.is_cuda and bool(wrong.any()):
        raise InputError(f"label {int(labels[wrong][0])}; accepted: 0 to {card - 1}, and {IGNORED} for none")
    return F.cross_entropy(logits, labels, ignore_index=IGNORED)


def delayed(codes: Tensor, initial: int) -> Tensor:
    """Every codebook but the first one step later, [B, K, T] -> [B, K, T]; their last step falls off."""
    first = torch.full_like(codes[:, 1:, :1], initial)
    return torch.cat([codes[:, :1], torch.cat([first, codes[:, 1:, :-1]], dim=2)], dim=1)
