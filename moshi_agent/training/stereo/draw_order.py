"""In which order a data set is gone through: a rule without a memory, so that it goes on anywhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class DrawOrder:
    """Every item once in each epoch, each epoch in an order of its own that follows from the seed alone."""

    def __init__(self, items: int, seed: int) -> None:
        self.items = items
        self.seed = seed

    def item(self, draw: int, later: int = 0) -> int:
        """The item of a draw, or of one so much later in the same epoch, which goes round in a circle."""
        epoch, place = divmod(draw, self.items)
        return int(_permutation(self.items, self.seed, epoch)[(place + later) % self.items])


@lru_cache(maxsize=4)
def _permutation(items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(items)
