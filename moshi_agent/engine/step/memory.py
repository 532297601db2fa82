"""The memory that conversations take, and what a device has for them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from moshi_agent.config import KVCache
from moshi_agent.errors import DeviceFull
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.state import State

RESERVED_BYTES = 3 << 30  # of a device, for graphs and for what a step computes with, where there is enough
PROMPT_BYTES = 512 << 20  # of them, for the prompts that are kept
_LEAST_RESERVED_BYTES = 640 << 20  # graphs, workspaces, and the prompt or the voice of one who joins
_WORKING_ROW_BYTES = 4 << 20  # of one row's step, beside its state


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """How many conversations a device has room for, with either cache."""

    rows: int  # that are wanted
    free_bytes: int  # beside the weights and the codec's state
    float_bytes: int  # of one conversation, where its cache holds floats
    int8_bytes: int
    has_kernel: bool  # reads an int8 cache as it is; without, each layer's is expanded in every step
    layers: int

    def chosen(self, kv_cache: KVCache) -> bool:
        """Tells whether the cache is to be int8.

        `auto` takes it where floats do not fit with room to spare, and a kernel reads it: expanded in every
        step, it would cost twenty times the traffic.

        Raises DeviceFull where the conversations do not fit.
        """
        roomy = self.rows * self.float_bytes <= self.free_bytes - RESERVED_BYTES
        int8 = kv_cache == "int8" or (kv_cache == "auto" and self.has_kernel and not roomy)
        if self.most_rows(int8) < self.rows:
            raise DeviceFull(self._refusal(kv_cache, int8))
        return int8

    def most_rows(self, int8: bool) -> int:
        """Tells how many conversations fit."""
        return max(0, (self.free_bytes - _LEAST_RESERVED_BYTES) // self._bytes_each(int8))

    def _bytes_each(self, int8: bool) -> int:
        expanded = 4 * self.float_bytes // self.layers if int8 and not self.has_kernel else 0
        return (self.int8_bytes if int8 else self.float_bytes) + _WORKING_ROW_BYTES + expanded

    def _refusal(self, kv_cache: KVCache, int8: bool) -> str:
        needed, usable = self.rows * self._bytes_each(int8), self.free_bytes - _LEAST_RESERVED_BYTES
        most = self.most_rows(int8)
        accepted = [f"capacity={most}"] if most else []
        if not int8 and self.most_rows(True) > most:
            how = "kv_cache='int8'"
            if kv_cache == "auto":
                how += (
                    ", which is slow without its kernel: install a C compiler (apt install gcc python3-dev)"
                )
            accepted.append(f"{how} (at most {self.most_rows(True)} fit)")
        accepted += ["weights of fewer bits", "a GPU with more memory"]
        return (
            f"capacity={self.rows} needs {_gb(needed)}, {_gb(max(0, usable))} are free: "
            f"{f'at most {most} fit' if most else 'not one fits'}; "
            f"accepted: {', '.join(accepted)}"
        )


def row_bytes(state: State) -> int:
    """Tells what one row of this state takes."""
    return sum(tensor[0].numel() * tensor.element_size() for tensor in state.tensors())


def temporal_row_bytes(lm: LMModel, kv_int8: bool) -> int:
    """Tells what the temporal transformer's state takes for one conversation. Allocates nothing."""
    return row_bytes(lm.transformer.init_state(1, torch.device("meta"), lm.dtype, kv_int8))


def free_bytes(device: torch.device) -> int:
    """Tells how much of the device's memory is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def plan_rows(lm: LMModel, rows: int, free: int, has_kernel: bool, copies: int = 1) -> RowPlan:
    """Plans for so many conversations, whose weights and codecs have their memory already.

    Args:
        has_kernel: of the attention to an int8 cache.
        copies: of the cache, 2 with guidance.
    """
    return RowPlan(
        rows=rows,
        free_bytes=free,
        float_bytes=copies * temporal_row_bytes(lm, kv_int8=False),
        int8_bytes=copies * temporal_row_bytes(lm, kv_int8=True),
        has_kernel=has_kernel,
        layers=lm.config.temporal.num_layers,
    )


def choose_kv_int8(kv_cache: KVCache, lm: LMModel, rows: int, has_kernel: bool, copies: int = 1) -> bool:
    """Tells whether the cache is stored as int8; `auto` is about the memory of a GPU.

    Raises DeviceFull where so many conversations do not fit on a GPU.
    """
    if lm.device.type != "cuda":
        return kv_cache == "int8"
    return plan_rows(lm, rows, free_bytes(lm.device), has_kernel, copies).chosen(kv_cache)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
