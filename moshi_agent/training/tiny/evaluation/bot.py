"""The model as many callers at once meet it: a row for each of them, one frame at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.engine.call.opening import first_step
from moshi_agent.engine.step.frame_step import FrameStep, RowInput

Rows = NDArray[np.float32]  # [rows, FRAME_SAMPLES]
TextRow = NDArray[np.int64]  # [rows]


class Bot(Protocol):
    """What callers talk to."""

    def step(self, user: Rows) -> tuple[Rows, TextRow]:
        """One frame from every caller; the frame of sound and the text token that each gets in reply."""
        ...


class ModelBot:
    """A checkpoint, driven as an engine drives it, with all rows in step.

    Args:
        greets: for each row, whether the bot is asked to speak first.
        greedy: takes the best token everywhere; else samples as the checkpoint advises.

    Raises:
        ConfigError: the checkpoint has no language model.
    """

    def __init__(
        self, checkpoint: Checkpoint, greets: Sequence[bool], *, greedy: bool = False, seed: int = 0
    ) -> None:
        self._step = FrameStep(checkpoint, len(greets))
        self._silence = np.zeros(self._step.mimi.frame_size, np.float32)
        advised = checkpoint.advised_sampling
        sampling = replace(advised, greedy=greedy or advised.greedy, seed=seed)
        first: list[RowInput] = []
        for row, greet in enumerate(greets):
            self._step.begin_row(row, sampling)
            first.append(first_step(greet, self._step.num_streams).row_input(row))
        self._step.run(first)

    def step(self, user: Rows) -> tuple[Rows, TextRow]:
        """See `Bot.step`."""
        outputs = self._step.run([RowInput(row=row, pcm=pcm) for row, pcm in enumerate(user)])
        said = [self._silence if output.audio is None else output.audio for output in outputs]
        return np.stack(said), np.array([output.text for output in outputs])
