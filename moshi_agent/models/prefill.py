"""Forced tokens, read ahead: many steps at once, through the temporal transformer alone.

Where nothing is left to choose the depth transformer has nothing to say, and the tokens that a step reads
are known before the step: so a prompt is read as a training sequence is, and leaves behind what its steps
would have left. So are the steps of a conversation whose caches are lost, by the tokens that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.models.generator import Generator, LMGenState, StepInput
from moshi_agent.models.lm import Conditions, LMModel
from moshi_agent.models.token_ring import TokenRing, TokenRingState
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.nn.transformer import TransformerState

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
    x = generator.lm_model.embed(columns[None])  # [1, steps, dim]
    if embeddings is not None:
        x[0, : len(embeddings)] = embeddings.to(x)
    _read(generator.lm_model, x, state.temporal, generator.conditions)
    _write(generator.ring, state.ring, tokens)


def recall(
    generator: Generator,
    state: LMGenState,
    steps: range,
    embeddings: Mapping[int, Tensor] | None = None,
    references: Tensor | None = None,
) -> None:
    """Reads steps again whose tokens the ring still has: the caches then have what the steps left in them.

    Args:
        state: of one row. Its ring stays as it is; its caches have what stands before these steps.
        steps: by number, at most `generator.ring.history` of them and none older.
        embeddings: [dim] by the number of the step that read it in place of tokens.
        references: of these steps, as `LMModel.temporal` takes them, with a batch of one.
    """
    model, ring, guidance = generator.lm_model, generator.ring, generator.guidance
    positions = torch.arange(steps.start, steps.stop, device=state.ring.tokens.device)
    tokens, is_initial = ring.read_again(state.ring, positions)
    x = model.embed(tokens.T[None], references)  # [1, steps, dim]
    for step, embedding in (embeddings or {}).items():
        x[0, step - steps.start] = embedding.to(x)
    _read(model, x, state.temporal, generator.conditions)
    if guidance is not None:
        assert state.temporal_null is not None
        tokens = guidance.unwanted_tokens(tokens, is_initial, positions, ring.delays)
        x = model.embed(tokens.T[None], references)
        _read(model, x, state.temporal_null, guidance.conditions)


def _read(model: LMModel, x: Tensor, state: TransformerState, conditions: Conditions) -> None:
    """Reads embedded steps of one row, [1, steps, dim]."""
    if conditions.sum is not None:
        x = x + conditions.sum
    start = int(state.offset)
    for chunk in x.split(_chunks(start, x.shape[1], state.capacity), dim=1):
        start += chunk.shape[1]
        model.transformer(chunk, state, cross=conditions.cross, length=min(start, state.capacity))


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
    slots = state.tokens.shape[2]
    kept = tokens[-slots:]
    state.offset += len(tokens)
    steps = state.offset + torch.arange(-len(kept), 0, device=tokens.device)
    ahead = ring.delays.clone()
    ahead[: ring.generated] = 1  # what a step chooses is read in the next
    state.tokens[0].scatter_(1, (steps + ahead[:, None]) % slots, kept.T)


def _step_by_step(generator: Generator, state: LMGenState, tokens: Tensor) -> None:
    """With guidance, whose other half reads other tokens."""
    sampling = RowSampling(1, tokens.device, SamplingConfig(greedy=True))
    for step in tokens[:, None]:
        generated = generator.ring.generated
        given = StepInput(user=step[:, generated:], forced=step[:, :generated])
        generator.advance(state, given, sampling)
