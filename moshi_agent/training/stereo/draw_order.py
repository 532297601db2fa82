"""Says in which order a data set is drawn: a rule without a memory, so that a run goes on anywhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class DrawOrder:
    """Draws every item once in each epoch; each epoch's own order follows from the seed alone."""

    def __init__(self, items: int, seed: int) -> None:
        self.items = items
        self.seed = seed

    def item(self, draw: int, later: int = 0) -> int:
        """Returns the item of a draw, or of one so much later in the same epoch, which goes round."""
        epoch, place = divmod(draw, self.items)
        return int(_permutation(self.items, self.seed, epoch)[(place + later) % self.items])


@lru_cache(maxsize=4)
def _permutation(items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(items)
