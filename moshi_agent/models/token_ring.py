"""The delays between streams.

A frame's tokens are not read all at once: each stream has a delay. A small ring of positions holds
the tokens written ahead; position p is what the temporal transformer reads at step p. A frame is
whole, and comes out, `max_delay` steps after its first token. A ring with a `history` also keeps what
the last steps have read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.nn.state import State, keep


@dataclass
class TokenRingState(State):
    offset: Tensor  # [B] int64, steps taken
    tokens: Tensor  # [B, streams, history + max_delay + 2] int64, a ring over positions
    ahead: int = 1  # positions behind `offset` that may be written

    def row_parts(self, row: int) -> Iterator[Tensor]:
        """Lists of the ring only what is written: a small part in a young conversation."""
        yield self.offset[row]
        written = min(self.tokens.shape[2], max(0, int(self.offset[row])) + self.ahead)
        yield self.tokens[row, :, :written]


class TokenRing:
    """Writes, reads and aligns the tokens of all streams, text first.

    Args:
        delays: of every stream, in frames.
        initial: [streams], what each stream holds before its first token.
        generated: how many streams, from the first on, are generated; the others are given.
        history: steps that can be read again.
    """

    def __init__(self, delays: tuple[int, ...], initial: Tensor, generated: int, history: int = 0) -> None:
        self.initial = initial
        self.generated = generated
        self.history = history
        self.max_delay = max(delays)
        self.delays = torch.tensor(delays, device=initial.device)  # [streams]

    def init_state(self, rows: int) -> TokenRingState:
        """Makes the state of `rows` streams."""
        device, slots = self.initial.device, self.history + self.max_delay + 2
        tokens = torch.zeros(rows, len(self.initial), slots, device=device, dtype=torch.long)
        return TokenRingState(
            torch.zeros(rows, device=device, dtype=torch.long), tokens, max(1, self.max_delay)
        )

    def write_given(self, state: TokenRingState, tokens: Tensor, exec_mask: Tensor | None) -> None:
        """Writes the frame that has arrived, [B, streams - generated], ahead by the delays."""
        positions = state.offset[:, None] + self.delays[self.generated :]
        _write(state.tokens[:, self.generated :], tokens, positions, exec_mask)

    def read(self, state: TokenRingState, exec_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Reads the tokens of now, [B, streams], and which of them are initial ones."""
        slot = (state.offset % state.tokens.shape[2])[:, None, None].expand(-1, len(self.initial), 1)
        is_initial = state.offset[:, None] <= self.delays
        if exec_mask is not None:
            # A row that does not execute may have nothing to read yet.
            is_initial |= ~exec_mask[:, None]
        return torch.where(is_initial, self.initial, state.tokens.gather(2, slot)[:, :, 0]), is_initial

    def read_again(self, state: TokenRingState, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Reads what the steps at these positions have read, at most `history` steps back.

        Args:
            state: of one row.
            positions: [T].

        Returns:
            Tokens [T, streams], and which of them are initial ones.
        """
        is_initial = positions[:, None] <= self.delays
        tokens = state.tokens[0, :, positions % state.tokens.shape[2]].T
        return torch.where(is_initial, self.initial, tokens), is_initial

    def write_generated(self, state: TokenRingState, tokens: Tensor, exec_mask: Tensor | None) -> None:
        """Writes what the step has generated, [B, generated], to be read at the next; the rows move on."""
        positions = (state.offset + 1)[:, None].expand_as(tokens)
        _write(state.tokens[:, : self.generated], tokens, positions, exec_mask)
        keep(state.offset, state.offset + 1, exec_mask)

    def newest_frame(self, state: TokenRingState, exec_mask: Tensor | None) -> Tensor | None:
        """Does as `newest_frames`; None where no row has one, if a CPU can tell."""
        if not state.offset.is_cuda and not bool((state.offset > self.max_delay).any()):
            return None
        return self.newest_frames(state, exec_mask)

    def newest_frames(self, state: TokenRingState, exec_mask: Tensor | None) -> Tensor:
        """Reads the newest frame of the rows that execute, [B, generated, 1]; -2 where there is none."""
        ready = state.offset > self.max_delay
        if exec_mask is not None:
            ready = ready & exec_mask
        positions = state.offset[:, None] - self.max_delay + self.delays[: self.generated]
        slots = (positions % state.tokens.shape[2])[:, :, None]
        out = state.tokens[:, : self.generated].gather(2, slots)
        return torch.where(ready[:, None, None], out, UNGENERATED_TOKEN)


def _write(ring: Tensor, tokens: Tensor, positions: Tensor, exec_mask: Tensor | None) -> None:
    """Writes tokens, [B, K], at positions, [B, K], of a ring [B, K, length]."""
    slots = (positions % ring.shape[2])[:, :, None]
    values = tokens[:, :, None]
    if exec_mask is not None:
        values = torch.where(exec_mask[:, None, None], values, ring.gather(2, slots))
    ring.scatter_(2, slots, values)
