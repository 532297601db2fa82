"""The temporal transformer over embeddings, with a cache, padded rows, and its inner states."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moshi_agent.errors import InputError
from moshi_agent.hf.cache import MoshiCache
from moshi_agent.models.lm import LMModel


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a call asks for beside the last hidden state."""

    cache: MoshiCache | None = None  # read and written
    attention_mask: Tensor | None = None  # [B, T], or [B, past + T] with a cache
    hidden_states: bool = False


@dataclass(frozen=True)
class Decoded:
    """What the temporal transformer gives."""

    last_hidden_state: Tensor  # [B, T, dim]
    hidden_states: tuple[Tensor, ...] | None  # each [B, T, dim]


def decode(lm: LMModel, embeds: Tensor, wanted: Wanted) -> Decoded:
    """Embeddings [B, T, dim] -> hidden states, normed as the output layers want them.

    Rows may be padded on the left or on the right, not in between: the model reads each row's tokens one
    after the other.

    Raises:
        InputError: a mask of another shape, with a hole, or one that pads behind a cache.
    """
    late = _late_rows(wanted.attention_mask, embeds, wanted.cache, lm.config.temporal.context)  # [B] or None
    x = embeds.to(lm.dtype)
    if late is not None:
        x = _rolled(x, late)  # padding behind a row's tokens is never seen by them
    layers = list(lm.transformer.layers) if wanted.hidden_states else []
    with _inputs_of(layers) as seen:
        x = lm.transformer(x) if wanted.cache is None else wanted.cache.run(lm.transformer, x)
    x = lm.out_norm(x)
    states = [torch.cat(parts, dim=1) for parts in seen] + [x]
    if late is not None:
        states = [_rolled(state, -late) for state in states]
        if wanted.cache is not None:
            wanted.cache.forget(late)
    return Decoded(states[-1], tuple(states) if wanted.hidden_states else None)


def _late_rows(
    mask: Tensor | None, embeds: Tensor, cache: MoshiCache | None, context: int | None
) -> Tensor | None:
    """How many steps of padding each row begins with, [B]; None where none does."""
    if mask is None:
        return None
    batch, steps = embeds.shape[:2]
    past = 0 if cache is None else cache.get_seq_length()
    if mask.dim() != 2 or mask.shape != (batch, past + steps):
        accepted = f"[{batch}, {past + steps}]"
        raise InputError(f"attention_mask of shape {list(mask.shape)}; accepted: {accepted}")
    given = mask[:, past:].to(embeds.device).bool()
    if bool(given.all()):
        return None
    if past:
        raise InputError(
            "attention_mask with padding behind past_key_values; accepted: padding in the first call"
        )
    changes = (given[:, 1:] != given[:, :-1]).sum(dim=1)
    if int(changes.max()) > 1:
        raise InputError("attention_mask with a hole; accepted: padding on the left or on the right of a row")
    if cache is not None and steps > (context or steps):
        raise InputError(
            f"padding with past_key_values; accepted: at most {context} steps, the whole context"
        )
    late = torch.where(given.any(dim=1), given.int().argmax(dim=1), 0)
    if cache is not None and not bool(given[:, -1].all()):
        raise InputError(
            "attention_mask with padding on the right; past_key_values go with padding on the left"
        )
    return late if int(late.max()) else None


def _rolled(x: Tensor, steps: Tensor) -> Tensor:
    """Moves each row to the left, what falls off to its end. x: [B, T, C], steps: [B] -> [B, T, C]."""
    order = torch.arange(x.shape[1], device=x.device)[None] + steps[:, None]
    return x.gather(1, (order % x.shape[1])[:, :, None].expand_as(x))


@contextmanager
def _inputs_of(layers: Sequence[nn.Module]) -> Generator[list[list[Tensor]]]:
    """Collects what each layer reads while the context lasts, a list of chunks for each."""
    seen: list[list[Tensor]] = [[] for _ in layers]

    def watch(kept: list[Tensor], layer: nn.Module) -> Any:
        return layer.register_forward_pre_hook(lambda _, args: kept.append(args[0]))

    handles = [watch(kept, layer) for kept, layer in zip(seen, layers, strict=True)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
