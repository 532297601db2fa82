"""`with model.streaming(batch_size): ...`: the API that Moshi's users know, over an explicit state."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor

from moshi_agent.errors import InputError
from moshi_agent.nn.captured_step import CapturedStep, Step
from moshi_agent.nn.cuda_graphs import GraphDevice, choose_graph_device
from moshi_agent.nn.state import State

S = TypeVar("S", bound=State)


class Streaming(Generic[S]):
    """Attaches a state and an exec mask to a model.

    Unlike in Kyutai's package, resetting a row touches nothing but that row, and leaves the exec
    mask as it was set.

    On CUDA the steps of a stream are captured as graphs, each when it is first taken. Set `cuda_graphs` to
    False before a stream is opened to have every kernel launched by itself.
    """

    cuda_graphs: GraphDevice | bool = True

    _stream: S | None = None
    _exec_mask: Tensor | None = None  # [B] bool; None lets every row execute
    _batch_size: int = 0

    def init_state(self, rows: int) -> S:
        """Makes a fresh state of `rows` streams."""
        raise NotImplementedError

    @property
    def is_streaming(self) -> bool:
        return self._stream is not None

    @property
    def streaming_state(self) -> S:
        """Returns the attached state. Raises InputError outside `streaming`."""
        if self._stream is None:
            raise InputError(
                f"{type(self).__name__} is not streaming: call it inside `with model.streaming(batch_size)`"
            )
        return self._stream

    def streaming_forever(self, batch_size: int) -> None:
        """Attaches a fresh state for `batch_size` streams.

        Raises:
            InputError: a batch size below 1, or a stream that is already attached.
        """
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; accepted: 1 or more")
        if self._stream is not None:
            raise InputError(f"{type(self).__name__} is streaming already")
        self._stream = self.init_state(batch_size)
        self._batch_size = batch_size
        self._exec_mask = None

    def stop_streaming(self) -> None:
        """Drops the attached state."""
        self._stream = None
        self._exec_mask = None

    def _captured(self, step: Step) -> CapturedStep | None:
        """What takes this step of the stream as graphs; None where nothing is captured.

        Each step has a `GraphDevice` of its own, whose graphs share memory: those of two steps may run
        at once, on two CUDA streams.
        """
        if self._stream is None:
            return None
        place = next(self._stream.tensors()).device
        graphs = choose_graph_device(self.cuda_graphs, place)
        return None if graphs is None else CapturedStep(step, self._batch_size, place, graphs)

    def streaming(self, batch_size: int) -> AbstractContextManager[None]:
        """Attaches a fresh state at once, and drops it when the context ends."""
        self.streaming_forever(batch_size)
        return self._stop_after()

    @contextmanager
    def _stop_after(self) -> Generator[None]:
        try:
            yield
        finally:
            self.stop_streaming()

    def set_exec_mask(self, exec_mask: Tensor) -> None:
        """Lets only the rows that are True move on, from now on. exec_mask: [B] bool."""
        exec_mask = self._check_rows(exec_mask, "exec_mask")
        self._exec_mask = None if not exec_mask.is_cuda and bool(exec_mask.all()) else exec_mask

    def reset_streaming(self, reset_mask: Tensor | None = None) -> None:
        """Takes the rows that are True, [B] bool, back to the beginning; None is all of them."""
        state = self.streaming_state
        state.reset(None if reset_mask is None else self._check_rows(reset_mask, "reset_mask"))

    def _check_rows(self, mask: Tensor, name: str) -> Tensor:
        state = self.streaming_state
        if mask.dtype != torch.bool or mask.shape != (self._batch_size,):
            given = f"{name} of shape {list(mask.shape)} and type {mask.dtype}"
            raise InputError(f"{given}; accepted: [{self._batch_size}] torch.bool")
        return mask.to(next(state.tensors()).device, copy=True)
