"""How a frame step is run: operator after operator, or as captured CUDA graphs.

There is a graph for each number of rows and of cache positions read. A step is thousands of small kernels;
launched one by one they leave a GPU idle most of the time. A graph launches them all at once, but its sizes
and addresses are fixed: so the rows are padded to one of a few sizes (rows without input are masked), and
input and output have buffers that stay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from moshi_agent.engine.step.memory import RESERVED_BYTES
from moshi_agent.engine.step.step_tensors import InputBuffers, ResultTensors, RowInput, StepShape, StepTensors
from moshi_agent.errors import ConfigError, DeviceFull
from moshi_agent.nn.cuda_graphs import GraphDevice
from moshi_agent.nn.device_errors import is_final, is_out_of_memory
from moshi_agent.nn.own_precision import whole_float32

_log = logging.getLogger("moshi_agent.engine")
_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 448, 512)
_LENGTHS = (256, 768, 1536)

Key = tuple[int, int]  # rows, cache positions read
# The number of rows, their input, how many cache positions to read (None: as many as are filled).
Compute = Callable[[int, StepTensors, int | None], ResultTensors]


Launched = Callable[[], ResultTensors]  # waits for a step; its result on the host, good until the next launch


class StepRunner(Protocol):
    """Takes a step from its input on the host to its output on the host."""

    @property
    def runs_aside(self) -> bool:
        """Whether the device still computes when `launch` returns: the host may do something else."""
        ...

    def warm_up(self) -> None:
        """Does beforehand what a first step would wait for. No row's conversation is touched."""
        ...

    def launch(self, count: int, longest: int, inputs: Sequence[RowInput]) -> Launched:
        """Begins one step of the first `count` rows. The next one is launched once it has been waited for.

        Args:
            longest: cache positions that any of the rows with input will have filled by then.

        Returns:
            What waits for the result, [count, ...].
        """
        ...


class EagerRunner:
    """Launches every operator by itself: on a CPU, or where no graphs are wanted."""

    runs_aside = False  # with thousands of launches the host is as busy as the device

    def __init__(self, compute: Compute, shape: StepShape) -> None:
        self._compute = compute
        self._device = shape.device
        self._input = InputBuffers.new(shape, torch.device("cpu"))

    def warm_up(self) -> None:
        """Does nothing: there is nothing to do."""

    def launch(self, count: int, longest: int, inputs: Sequence[RowInput]) -> Launched:
        """Implements `StepRunner.launch`."""
        self._input.fill(count, inputs)
        given = self._input.first_rows(count).compact(self._device)
        result = self._compute(count, given, None)
        here = result.to_host()
        return lambda: here


def choose_sizes(capacity: int) -> tuple[int, ...]:
    """Returns the numbers of rows that steps are padded to, ascending, the largest being the capacity."""
    return (*(size for size in _SIZES if size < capacity), capacity)


def choose_lengths(context: int, reads_what_is_filled: bool) -> tuple[int, ...]:
    """Returns the numbers of cache positions that steps read, ascending, the largest being the context.

    One is enough where the attention stops by itself at the end of what a row has filled.
    """
    shorter = () if reads_what_is_filled else tuple(one for one in _LENGTHS if one < context)
    return (*shorter, context)


@dataclass(frozen=True, kw_only=True)
class CaptureLimits:
    """What capturing may cost at the start. The largest graph is captured whatever it costs."""

    graphs: int = 64
    seconds: float = 120.0
    num_bytes: int = RESERVED_BYTES


class GraphRunner:
    """Runs steps as graphs: the smallest one captured that has room for a step's rows and positions."""

    runs_aside = True

    def __init__(
        self,
        compute: Compute,
        shape: StepShape,
        device: GraphDevice,
        lengths: Sequence[int],
        limits: CaptureLimits | None = None,
    ) -> None:
        self.sizes, self.lengths = choose_sizes(shape.rows), tuple(lengths)
        self._compute, self._device, self._limits = compute, device, limits or CaptureLimits()
        host, pinned = torch.device("cpu"), device.can_pin
        self._host_input = InputBuffers.new(shape, host, pinned)
        self._host_result = ResultTensors.new(shape, host, pinned)
        self._input = InputBuffers.new(shape, shape.device)
        self._result = ResultTensors.new(shape, shape.device)
        self._graphs: dict[Key, Callable[[], None]] = {}

    @property
    def captured(self) -> list[Key]:
        """The graphs there are."""
        return sorted(self._graphs)

    def warm_up(self) -> None:
        """Captures graphs until all are there or a limit is reached; logs what that has cost.

        The longest come first, for they can stand in for any other; and of those the one with the
        most rows, so that all that follow fit into the memory it has brought into the pool. Then
        ascending: where few talk, padding to many rows would cost the most.
        """
        sizes = (self.sizes[-1], *self.sizes[:-1])
        keys = [(size, length) for length in reversed(self.lengths) for size in sizes]
        started, used = time.perf_counter(), self._device.used_bytes()
        ended_by = None
        for key in keys:
            if self._graphs and self._is_spent(
                time.perf_counter() - started, self._device.used_bytes() - used
            ):
                ended_by = "no more time or memory is given to them"
                break
            if key in self._graphs:
                continue
            try:
                self._graphs[key] = self._capture(key)
            except Exception as error:
                ended_by = self._without(key, error)
                break
        seconds, mebibytes = time.perf_counter() - started, (self._device.used_bytes() - used) / 2**20
        level = logging.INFO if ended_by is None else logging.WARNING
        told = (
            "" if ended_by is None else f"; {ended_by}: other steps cost as much as the next larger of them"
        )
        _log.log(
            level,
            "%d of %d graphs, %.1f s, %.0f MiB%s",
            len(self._graphs),
            len(keys),
            seconds,
            mebibytes,
            told,
        )

    def _without(self, key: Key, error: Exception) -> str:
        """Why there are no more graphs. Raises where there is none yet, or the device is lost."""
        if is_final(error):
            raise error
        reason = "no memory is left" if is_out_of_memory(error) else str(error).partition("\n")[0]
        if self._graphs:
            # These replay as before, and the largest, which is the first, can stand in for any other.
            return f"the one of {key[0]} rows and {key[1]} positions cannot be captured ({reason})"
        message = (
            f"the step of {key[0]} rows cannot be captured as a CUDA graph ({reason}); accepted: "
            "cuda_graphs=False, with which every kernel is launched by itself, or fewer rows (capacity)"
        )
        raise (DeviceFull if is_out_of_memory(error) else ConfigError)(message) from error

    def _is_spent(self, seconds: float, num_bytes: int) -> bool:
        limits = self._limits
        return (
            len(self._graphs) >= limits.graphs or seconds >= limits.seconds or num_bytes >= limits.num_bytes
        )

    def launch(self, count: int, longest: int, inputs: Sequence[RowInput]) -> Launched:
        """Implements `StepRunner.launch`."""
        if not self._graphs:
            self.warm_up()
        key = self.choose(count, longest)
        size, _ = key
        self._host_input.fill(size, inputs)
        self._input.copy_rows(self._host_input, size)
        self._graphs[key]()
        self._host_result.copy_rows(self._result, count)
        self._device.mark()
        return partial(self._finish, count)

    def _finish(self, count: int) -> ResultTensors:
        self._device.wait()
        return self._host_result.first_rows(count)

    def choose(self, count: int, longest: int) -> Key:
        """Returns the smallest graph there is for so many rows and cache positions."""
        return min(key for key in self._graphs if key[0] >= count and key[1] >= longest)

    def _capture(self, key: Key) -> Callable[[], None]:
        size, length = key
        # Masked rows leave every conversation as it is, whatever the warm-up runs.
        self._host_input.fill(size, [])
        self._input.copy_rows(self._host_input, size)
        given, result = self._input.first_rows(size).whole(), self._result.first_rows(size)

        def step() -> None:
            result.copy_rows(self._compute(size, given, length), size)

        # TF32, which a program may have asked for, would change the codec's codes.
        with whole_float32():
            return self._device.capture(step)
