"""The end of what is to be translated, and of its translation.

Hibiki hears one frame of a code that its codec has not, on every codebook, when the speech is over, and
ends its own text with a token when it has said all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moshi_agent.nn.embedding import UNGENERATED_TOKEN

END_OF_TEXT = 2  # where there is no tokenizer to say which it is


@dataclass(frozen=True)
class Ends:
    """How a translation model is told of the end, and how it tells its own."""

    code: int  # in one frame, on all codebooks of the user
    codebooks: int
    text_token: int  # before the end of the input it means nothing

    def tokens(self, num_streams: int) -> NDArray[np.int64]:
        """Gives what is forced in the one frame that tells of the end: [num_streams], -2 where nothing is."""
        tokens = np.full(num_streams, UNGENERATED_TOKEN)
        tokens[-self.codebooks :] = self.code
        return tokens
