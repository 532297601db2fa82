"""Forced tokens, read ahead: many steps at once, through the temporal transformer alone.

Where nothing is left to choose the depth transformer has nothing to say, and the tokens that a step reads
are known before the step: so a prompt is read as a training sequence is, and leaves behind what its steps
would have left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.models.generator import Generator, LMGenState, StepInput
from moshi_agent.models.token_ring import TokenRing, TokenRingState
from moshi_agent.nn.sampling import RowSampling

MOST_POSITIONS = 128  # at once, of each who begins: the others' frames wait meanwhile


def prefill(
    generator: Generator, state: LMGenState, tokens: Tensor, embeddings: Tensor | None = None
) -> None:
    """Takes steps in which everything is forced.

    Args:
        state: of one row, which moves on by so many steps.
        tokens: [steps, 1 + n_q], of each step what `StepInput` would have as `forced`, then as `user`.
        embeddings: [up to steps, dim], read in the first steps in place of the tokens' own.
    """
    if generator.guidance is not None:
        _step_by_step(generator, state, tokens)
        return
    columns = _columns(generator.ring, state.ring, tokens)
    model, conditions = generator.lm_model, generator.conditions
    x = model.embed(columns[None])  # [1, steps, dim]
    if embeddings is not None:
        x[0, : len(embeddings)] = embeddings.to(x)
    if conditions.sum is not None:
        x = x + conditions.sum
    temporal, start = state.temporal, int(state.temporal.offset)
    for chunk in x.split(_chunks(start, len(tokens), temporal.capacity), dim=1):
        start += chunk.shape[1]
        length = min(start, temporal.capacity)
        model.transformer(chunk, temporal, cross=conditions.cross, length=length)
    _write(generator.ring, state.ring, tokens)


def _columns(ring: TokenRing, state: TokenRingState, tokens: Tensor) -> Tensor:
    """What the temporal transformer reads in each of the steps. [steps, streams] -> [streams, steps]."""
    steps, slots = len(tokens), state.tokens.shape[2]
    positions = state.offset + torch.arange(steps, device=tokens.device)
    columns = torch.empty_like(tokens.T)
    for stream, delay in enumerate(ring.delays.tolist()):
        # What a step chooses is read in the next; what it is given, as many steps later as its stream waits.
        later = min(1 if stream < ring.generated else delay, steps)
        columns[stream, :later] = state.tokens[0, stream, positions[:later] % slots]
        columns[stream, later:] = tokens[: steps - later, stream]
    return torch.where(positions <= ring.delays[:, None], ring.initial[:, None], columns)


def _chunks(start: int, steps: int, capacity: int) -> list[int]:
    """So many steps at once. A full cache takes them one by one: more would overwrite what the first need."""
    chunks: list[int] = []
    while steps:
        chunks.append(min(steps, MOST_POSITIONS, max(1, capacity - start)))
        start, steps = start + chunks[-1], steps - chunks[-1]
    return chunks


def _write(ring: TokenRing, state: TokenRingState, tokens: Tensor) -> None:
    """Leaves the ring as the steps would have: of older ones than it is long there is nothing in it."""
    kept = min(len(tokens), state.tokens.shape[2])
    state.offset += len(tokens) - kept
    for step in tokens[-kept:, None]:
        ring.write_given(state, step[:, ring.generated :], None)
        ring.write_generated(state, step[:, : ring.generated], None)


def _step_by_step(generator: Generator, state: LMGenState, tokens: Tensor) -> None:
    """With guidance, whose other half reads other tokens."""
    sampling = RowSampling(1, tokens.device, SamplingConfig(greedy=True))
    for step in tokens[:, None]:
        generated = generator.ring.generated
        given = StepInput(user=step[:, generated:], forced=step[:, :generated])
        generator.advance(state, given, sampling)
