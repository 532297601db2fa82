"""The rows of a frame step's state: how conversations begin in them, move, are taken out and come back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.config import KVCache, MoshiConfig, ReferenceKind, SamplingConfig
from moshi_agent.engine.step.memory import choose_kv_int8, row_bytes
from moshi_agent.engine.step.saved_row import SavedRow, SideInputs
from moshi_agent.engine.step.step_tensors import NO_REFERENCE, ReferenceRow, RowInput
from moshi_agent.errors import InputError
from moshi_agent.models.generator import Generator, LMGenState
from moshi_agent.models.mimi import MimiModel, MimiState
from moshi_agent.models.prefill import prefill, recall
from moshi_agent.models.token_ring import TokenRingState
from moshi_agent.nn import cache_attention
from moshi_agent.nn.attention import steady_attention
from moshi_agent.nn.device_errors import memory_for
from moshi_agent.nn.embedding import ZERO_TOKEN
from moshi_agent.nn.own_precision import own_precision
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.nn.state import State
from moshi_agent.nn.transformer import TransformerState
from moshi_agent.plural import counted

_MOST_STEPS = 2**40  # of one row: two thousand years


@dataclass
class EngineState(State):
    mimi: MimiState
    lm: LMGenState


@dataclass
class _CompactState(State):
    """All that cannot be computed from the rest."""

    mimi: MimiState
    ring: TokenRingState


def new_state(
    mimi: MimiModel, generator: Generator, rows: int, kv_cache: KVCache
) -> tuple[EngineState, bool]:
    """Makes the state, and says whether its cache is int8. Raises DeviceFull where it has no room."""
    lm, copies = generator.lm_model, 1 if generator.guidance is None else 2
    with memory_for(counted(rows, "conversation"), "fewer of them (capacity)"):
        codec = mimi.init_state(rows)  # first, so that the choice knows what it leaves free
        has_kernel = cache_attention.serves(lm.config.temporal, lm.device)
        int8 = choose_kv_int8(kv_cache, lm, rows, has_kernel, copies)
        return EngineState(codec, generator.init_state(rows, int8)), int8


class RowStates:
    """Holds the state of `rows` conversations with a model, and what of it is known without the device.

    Args:
        generator: whose history is as long as its context.
        state: fresh.
        sampling: of the rows.
    """

    def __init__(self, generator: Generator, state: EngineState, rows: int, sampling: RowSampling) -> None:
        lm = generator.lm_model
        self.generator, self.state, self.rows, self.sampling = generator, state, rows, sampling
        self.num_streams = lm.num_codebooks
        self.dim = lm.config.temporal.dim
        self.highest_tokens = _highest_tokens(lm.config)
        self.max_delay = lm.config.max_delay
        self.context = lm.config.temporal.context
        self.takes_references: ReferenceKind | None = lm.takes_beside
        self.device = lm.device
        self._compact = _CompactState(state.mimi, state.lm.ring)
        self._steps = [0] * rows  # what each row has taken, so that nobody has to ask the device
        self._side = [SideInputs() for _ in range(rows)]
        self._positions = generator.conditions.positions  # of the cache, before a row's first step
        self._written = [0] * rows  # positions of each row's cache that an earlier conversation has filled
        generator.begin(state.lm)

    @property
    def row_bytes(self) -> int:
        """Of state, for one conversation."""
        return row_bytes(self.state)

    def steps_taken(self, row: int) -> int:
        """Steps of the language model since the row began."""
        return self._steps[row]

    def _took_step(self, inputs: Sequence[RowInput]) -> None:
        """Notes a step of these rows."""
        for given in inputs:
            step = self._steps[given.row]
            if given.reference is not None:
                self._side[given.row].refer(step, given.reference, self.generator.ring.history)
            self._steps[given.row] = step + 1

    # Beginning and moving

    @torch.inference_mode()
    def rebuild(self) -> None:
        """Begins every row anew, after a step that failed half-way."""
        self.state.reset()  # in place: graphs know it by its address, and there may be no room for another
        self.generator.begin(self.state.lm)
        self._steps, self._written = [0] * self.rows, [0] * self.rows
        self._side = [SideInputs() for _ in range(self.rows)]

    @torch.inference_mode()
    def begin_row(self, row: int, sampling: SamplingConfig) -> None:
        """Makes the row a conversation that has not begun."""
        self._clear(row)
        self.generator.begin(self.state.lm.one_row(row))
        self.sampling.set_row(row, sampling)

    def _clear(self, row: int) -> None:
        for part in self._parts(self._extent(row)):
            part.zero_row(row)
        self._steps[row] = self._written[row] = 0
        self._side[row] = SideInputs()

    def _extent(self, row: int) -> int:
        """How many positions of the row's cache hold something; all behind them are zero.

        One more than are filled: a row that does not execute is written to where its next step will be.
        """
        filled = 1 + self._positions + self._steps[row]
        return min(self.state.lm.temporal.capacity, max(filled, self._written[row]))

    def _fills_its_cache(self, row: int) -> None:
        """Notes that any position of the row's cache may hold something."""
        self._written[row] = self.state.lm.temporal.capacity

    def _parts(self, positions: int) -> list[State]:
        """The state, and of the caches of whole conversations so many positions."""
        ahead = [caches.first_positions(positions) for caches in self._caches()]
        return [self.state.mimi, self.state.lm.ring, *ahead]

    def set_sampling(self, row: int, sampling: SamplingConfig) -> None:
        """Changes how the row is sampled from the next step on."""
        self.sampling.set_row(row, sampling)

    @torch.inference_mode()
    def move_row(self, source: int, target: int) -> None:
        """Copies a conversation to another row, as far as it has filled its own."""
        self._clear(target)
        for part in self._parts(self._extent(source)):
            part.copy_row(source, target)
        self._steps[target], self._written[target] = self._steps[source], self._written[source]
        self._side[target] = self._side[source].since(0)
        self.sampling.set_row(target, self.sampling.row(source))

    # Out of the state, and back

    @torch.inference_mode()
    def save_row(self, row: int, compact: bool = False) -> SavedRow:
        """Returns a copy of the row's state on the device, to be given to `load_row` or `resume_row`.

        Args:
            compact: without the caches; for `resume_row` alone.
        """
        state: State = self._compact if compact else self.state
        steps = self._steps[row]
        return SavedRow(
            state.save_row(row), steps, self._side[row].since(self._history_of(steps).start), compact
        )

    @torch.inference_mode()
    def load_row(self, row: int, saved: SavedRow) -> None:
        """Takes what `save_row` gave, with the caches."""
        self._written[row] = self._extent(row)
        self.state.load_row(row, saved.tensors)
        self._steps[row], self._side[row] = saved.steps, saved.side.since(0)

    @torch.inference_mode()
    def resume_row(self, row: int, saved: SavedRow) -> range:
        """Takes what `save_row` gave and what has been elsewhere meanwhile; such numbers may be anything.

        Returns:
            The steps for `recall`, in order, before the row takes another one; none with the caches.

        Raises:
            InputError: a row of another model, or tokens or positions that no conversation has.
        """
        sampling = self.sampling.row(row)
        try:
            saved.side.check(saved.steps, self.takes_references, self.dim, int(self.highest_tokens[0]))
            if saved.is_compact:
                again = self._resume_compact(row, saved)
            else:
                self._fills_its_cache(row)  # whatever the number of steps says
                self.load_row(row, saved)
                again = range(0)
            if not (self._is_sound(row) and (saved.is_compact or self._has_caches(row))):
                raise InputError("a row with tokens or positions that no conversation has")
        except InputError:
            self.begin_row(row, sampling)
            raise
        return again

    def _resume_compact(self, row: int, saved: SavedRow) -> range:
        self.begin_row(row, self.sampling.row(row))
        self._compact.load_row(row, saved.tensors)
        self._steps[row], self._side[row] = saved.steps, saved.side.since(0)
        again = self._history_of(saved.steps)
        if again.start:  # what stands before the first step has left the cache, too
            for caches in self._caches():
                caches.zero_row(row)
        return again

    def _history_of(self, steps: int) -> range:
        """The steps that a cache has after so many."""
        capacity = self.state.lm.temporal.capacity
        return range(0 if steps + self._positions <= capacity else steps - capacity, steps)

    def _caches(self) -> list[TransformerState]:
        lm = self.state.lm
        return [lm.temporal, *([] if lm.temporal_null is None else [lm.temporal_null])]

    def _has_caches(self, row: int) -> bool:
        """Whether the caches have all steps, or as many as they hold.

        Where steps were read again, what was before them is not counted any more.
        """
        most = self._steps[row] + self._positions
        least = min(most, self.state.lm.temporal.capacity)
        return all(least <= int(caches.offset[row]) <= most for caches in self._caches())

    def _is_sound(self, row: int) -> bool:
        """Whether all that later steps read by is within bounds, beside the caches."""
        ring, steps = self.state.lm.ring, self._steps[row]
        tokens = ring.tokens[row].cpu().numpy()  # [streams, slots]
        codec = [self.state.mimi.encoder_transformer, self.state.mimi.decoder_transformer]
        return (
            bool(((tokens >= ZERO_TOKEN) & (tokens <= self.highest_tokens[:, None])).all())
            and 0 <= steps <= _MOST_STEPS
            and int(ring.offset[row]) == steps
            and all(0 <= int(state.offset[row]) <= _MOST_STEPS for state in codec)
        )

    # Many steps at once

    @own_precision()
    @torch.inference_mode()
    def prefill(
        self, row: int, tokens: NDArray[np.int64], embeddings: NDArray[np.float32] | None = None
    ) -> None:
        """Takes steps of one row in which everything is forced, without the codec; as `prefill` does."""
        ahead = None if embeddings is None else torch.from_numpy(embeddings).to(self.device)
        state = self.state.lm.one_row(row)
        self._written[row] = self._extent(row) + len(tokens)  # also where it fails half-way
        with self.attention(), memory_for("the prompt of a conversation"):
            prefill(self.generator, state, torch.from_numpy(tokens).to(self.device), ahead)
        if embeddings is not None and self.generator.guidance is None:  # with guidance tokens are read
            self._side[row].embeddings |= dict(enumerate(embeddings, start=self._steps[row]))
        self._steps[row] += len(tokens)

    @own_precision()
    @torch.inference_mode()
    def recall(self, row: int, steps: range) -> None:
        """Reads steps of a row again whose tokens it has; as `recall` does."""
        side, state = self._side[row], self.state.lm.one_row(row)
        embeddings = {
            step: torch.from_numpy(one).to(self.device)
            for step, one in side.embeddings.items()
            if step in steps
        }
        references = self._references_of(steps, side.references)
        with self.attention(), memory_for("a conversation that has come from elsewhere"):
            recall(self.generator, state, steps, embeddings, references)

    def _references_of(self, steps: range, given: dict[int, int | ReferenceRow]) -> Tensor | None:
        """[1, n] or [1, n, dim], as the model takes them; None where there are none."""
        if not any(step in given for step in steps):
            return None
        if self.takes_references == "rows":
            rows = np.zeros((len(steps), self.dim), np.float32)
            for step in steps:
                rows[step - steps.start] = given.get(step, 0)
            return torch.from_numpy(rows)[None].to(self.device)
        tokens = torch.tensor([[given.get(step, NO_REFERENCE) for step in steps]], device=self.device)
        return torch.where(tokens == NO_REFERENCE, self.generator.lm_model.text_padding_token_id, tokens)

    def attention(self) -> AbstractContextManager[object]:
        """Chooses which of PyTorch's attentions serve, as `steady_attention` does."""
        return steady_attention(self.device)

    @torch.inference_mode()
    def fill_row(self, row: int) -> None:
        """Makes the row one that has gone on for longer than the context, as far as its steps' cost goes."""
        codec, capacity = self.state.mimi, self.state.lm.temporal.capacity
        for transformer in (codec.encoder_transformer, codec.decoder_transformer):
            transformer.offset[row].fill_(2 * transformer.capacity)
        for caches in self._caches():
            caches.offset[row].fill_(2 * capacity)
        self.state.lm.ring.offset[row].fill_(self.max_delay + 1)
        self._steps[row] = 2 * capacity


def _highest_tokens(config: MoshiConfig) -> NDArray[np.int64]:
    """The largest token that may be forced upon each stream, [streams]."""
    tokens = np.full(config.num_streams, config.card)
    # One number may stand for two texts.
    tokens[0] = (config.text_card + 1) ** 2 - 1 if config.demux_second_stream else config.text_card
    return tokens
