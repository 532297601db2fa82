"""Says where a fine-tuning gets its conversations from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from moshi_agent.training.stereo.dataset import Batch


class CropSource(Protocol):
    """Gives crops of conversations, all of one length: `StereoDataset` is one.

    Codes are [B, 1 + n_q, frames] int64: text, the model's own codes, the user's; -1 is nothing.
    """

    def batch(self, step: int, size: int, *, rank: int = 0, ranks: int = 1) -> Batch:
        """Returns `size` crops that follow from the arguments alone.

        Together, the ranks of a step get what a single one gets in as many steps:
        `batch(s, n, rank=r, ranks=k)` is `batch(s * k + r, n)`.
        """
        ...

    def in_order(self, size: int, *, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """Gives every crop once; the last batch may be smaller."""
        ...
