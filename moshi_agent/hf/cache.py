"""`past_key_values`: the temporal transformer's state, which grows until it holds the whole context."""

from __future__ import annotations

import torch
from torch import Tensor

from moshi_agent.errors import InputError
from moshi_agent.nn.transformer import Transformer, TransformerState

_BLOCK = 128  # positions by which the cache grows


class MoshiCache:
    """Keeps what the temporal transformer remembers of the tokens; every call changes it in place.

    Rows may have begun later than others (`attention_mask`): each has its own position.

    Args:
        reserve: positions to make room for at once.
    """

    def __init__(self, reserve: int = 0) -> None:
        self.state: TransformerState | None = None
        self._reserve = reserve
        self._seen = 0

    def get_seq_length(self) -> int:
        """Counts the tokens read so far, those of padding included."""
        return self._seen

    def run(self, transformer: Transformer, x: Tensor) -> Tensor:
        """Takes the next steps of every row, [B, T, C] -> [B, T, C].

        Raises:
            InputError: another number of rows than before.
        """
        state = self._with_room(transformer, x)
        # A longer chunk would write over positions that its own first steps still see.
        first = max(min(x.shape[1], state.capacity - self._seen), 1)
        parts = [x[:, :first], *x[:, first:].split(1, dim=1)] if first < x.shape[1] else [x]
        outputs = [transformer(part, state) for part in parts]
        self._seen += x.shape[1]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def forget(self, steps: Tensor) -> None:
        """Takes back the last `steps`, [B] int64, of each row: they were padding behind what it has read."""
        assert self.state is not None
        self.state.offset -= steps

    def _with_room(self, transformer: Transformer, x: Tensor) -> TransformerState:
        """The state, with positions for x where the context has as many."""
        wanted = max(self._reserve, -(-(self._seen + x.shape[1]) // _BLOCK) * _BLOCK)
        if transformer.config.context is not None:
            wanted = min(wanted, transformer.config.context)
        before = self.state
        if before is not None and len(before.offset) != len(x):
            raise InputError(f"{len(x)} rows; past_key_values have {len(before.offset)}")
        if before is None or before.capacity < wanted:
            kv = transformer.new_cache(len(x), wanted, x.device, x.dtype)
            offset = torch.zeros(len(x), device=x.device, dtype=torch.long)
            if before is not None:
                kv[:, :, :, :, : before.capacity] = before.kv
                offset = before.offset
            self.state = TransformerState(offset, kv)
        assert self.state is not None
        return self.state
