"""Whether the weights fit on their device: asked before the first of them is brought there."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from moshi_agent.errors import DeviceFull


def check_room(
    source: object, tensors: Iterable[tuple[Tensor, torch.dtype]], device: str, advice: str
) -> None:
    """Raises DeviceFull unless a GPU has room for tensors of these types; other devices are not asked.

    Args:
        source: whose weights they are.
        advice: what to do where they do not fit.
    """
    if torch.device(device).type != "cuda":
        return
    needed = sum(tensor.numel() * dtype.itemsize for tensor, dtype in tensors)
    free = torch.cuda.mem_get_info(torch.device(device))[0]
    if needed > free:
        raise DeviceFull(
            f"the weights of {source} need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on {device}; "
            f"accepted: {advice}"
        )
