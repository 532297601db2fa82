"""The recogniser beside a model: it hears the user of every conversation, and writes down what is said.

Each conversation has a row here of the same number as its own. The recogniser steps after the model, when the
answers are on their way: they do not wait for it, and nothing they are made of depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from moshi_agent.audio.framing import FRAME_SAMPLES, SAMPLE_RATE_HZ
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.checkpoint.recogniser import Recogniser
from moshi_agent.config import KVCache, SamplingConfig
from moshi_agent.engine.step.frame_step import FrameStep, RowInput, RowOutput
from moshi_agent.engine.step.saved_row import SavedRow
from moshi_agent.errors import InputError
from moshi_agent.nn.cuda_graphs import GraphDevice
from moshi_agent.text.timed_reader import Hearing

_GREEDY = SamplingConfig(greedy=True)


class RecogniserStep:
    """A recogniser and the state of `rows` users. One thread owns it, the one that owns the model's step.

    Args:
        checkpoint: of a recogniser.
        kv_cache, graphs: as those of `FrameStep`.

    Raises:
        ConfigError: the checkpoint is of another kind.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        rows: int,
        *,
        kv_cache: KVCache = "auto",
        graphs: GraphDevice | bool = True,
    ) -> None:
        self.recogniser = Recogniser.of(checkpoint)
        assert checkpoint.tokenizer is not None
        self.hearing = Hearing(tokenizer=checkpoint.tokenizer, delay_s=self.recogniser.delay_s)
        self._step = FrameStep(checkpoint, rows, kv_cache=kv_cache, graphs=graphs)
        self._beginning: SavedRow | None = None  # of every conversation, computed once

    def begin_row(self, row: int) -> None:
        """Makes the row one whose user has not said anything yet."""
        self._step.begin_row(row, _GREEDY)
        if self._beginning is not None:
            self._step.load_row(row, self._beginning)
            return
        self._step.run([RowInput(row=row, pcm=None)])  # the model's own first step, which hears nothing
        silence = np.zeros(FRAME_SAMPLES, np.float32)
        for _ in range(-(-int(self.recogniser.prefix_s * SAMPLE_RATE_HZ) // FRAME_SAMPLES)):
            self._step.run([RowInput(row=row, pcm=silence)])
        self._beginning = self.save_row(row)

    def move_row(self, source: int, target: int) -> None:
        """Copies a user to another row."""
        self._step.move_row(source, target)

    def save_row(self, row: int, compact: bool = False) -> SavedRow:
        """Returns a copy of the row; `compact` as in `RowStates.save_row`."""
        return self._step.save_row(row, compact)

    def resume_row(self, row: int, saved: SavedRow | None) -> range:
        """Goes on from what `save_row` gave; begins anew where that is of another recogniser.

        Returns:
            The steps for `recall`, as `RowStates.resume_row` does.
        """
        self.begin_row(row)
        if saved is None:
            return range(0)
        try:
            return self._step.resume_row(row, saved)
        except InputError:
            self.begin_row(row)
            return range(0)

    def recall(self, row: int, steps: range) -> None:
        """Reads steps of a row again, as `RowStates.recall` does."""
        self._step.recall(row, steps)

    def launch(self, inputs: Sequence[RowInput]) -> Callable[[], list[RowOutput]]:
        """Begins to take one frame of each user named; as `FrameStep.launch`."""
        return self._step.launch(inputs)

    def rebuild(self) -> None:
        """Begins every row anew, after a step that failed half-way."""
        self._step.rebuild()

    def close(self) -> None:
        """Lets go of what `FrameStep.close` does."""
        self._step.close()

    @property
    def row_bytes(self) -> int:
        """Of state, for one user."""
        return self._step.row_bytes

    def measure(self, counts: Sequence[int], repeats: int) -> dict[int, list[float]]:
        """Measures as `FrameStep.measure` does; what rows begin with is then computed as well."""
        times = self._step.measure(counts, repeats)
        self.begin_row(0)
        return times
