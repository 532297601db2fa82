"""How a frame step is run: as it is written, one operator after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from moshi_agent.engine.step_tensors import InputBuffers, ResultTensors, RowInput, StepShape, StepTensors

# The number of rows, their input, how many cache positions to read (None: as many as are filled).
Compute = Callable[[int, StepTensors, int | None], ResultTensors]


class StepRunner(Protocol):
    """Takes a step from its input on the host to its output on the host."""

    def warm_up(self) -> None:
        """Does beforehand what a first step would wait for. No row's conversation is touched."""
        ...

    def run(self, count: int, longest: int, inputs: Sequence[RowInput]) -> ResultTensors:
        """One step of the first `count` rows.

        Args:
            longest: cache positions that any of the rows with input will have filled by then.

        Returns:
            The result on the host, [count, ...], good until the next step.
        """
        ...


class EagerRunner:
    """Launches every operator by itself: on a CPU, or where nothing could be captured."""

    def __init__(self, compute: Compute, shape: StepShape) -> None:
        self._compute = compute
        self._device = shape.device
        self._input = InputBuffers.new(shape, torch.device("cpu"))

    def warm_up(self) -> None:
        """There is nothing to do."""

    def run(self, count: int, longest: int, inputs: Sequence[RowInput]) -> ResultTensors:
        """As `StepRunner.run` says."""
        self._input.fill(count, inputs)
        given = self._input.first_rows(count).without_the_obvious(self._device)
        result = self._compute(count, given, None)
        return ResultTensors(**{name: tensor.cpu() for name, tensor in vars(result).items()})
