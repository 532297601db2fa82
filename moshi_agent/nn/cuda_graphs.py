"""CUDA graphs: what captures calls of fixed shapes on tensors that stay, and replays them in one launch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch

_WARM_UP_CALLS = 2  # before a capture: kernels are compiled and chosen, workspaces allocated
# PyTorch allows one capture at a time in a process, and no memory to be given back meanwhile.
_capturing = threading.Lock()


class GraphDevice(Protocol):
    """What captures and replays."""

    @property
    def can_pin(self) -> bool:
        """Whether buffers on the host are to be pinned."""
        ...

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """Returns a function that does again what `call` does now, on the same tensors. Runs `call`, too."""
        ...

    def mark(self) -> None:
        """Notes what has been asked for so far, to be waited for later."""
        ...

    def wait(self) -> None:
        """Waits until all that was asked for before the last mark is done."""
        ...

    def used_bytes(self) -> int:
        """Returns memory in use."""
        ...


class CudaDevice:
    """CUDA graphs that share one pool of memory: they never run at once, nor read each other's results."""

    can_pin = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # What is captured keeps the priority of its stream: steps go before what is on a `side_stream`.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._pool = torch.cuda.graph_pool_handle()
        # A blocking wait leaves the processor to the threads that serve the conversations.
        self._done = torch.cuda.Event(blocking=True)

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """Implements `GraphDevice.capture`; both the warm-up and the capture run on a stream of their own."""
        graph = torch.cuda.CUDAGraph()
        with _capturing, torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    for _ in range(_WARM_UP_CALLS):
                        call()
            finally:
                # Where it fails the steps go on, and write to what it may still be writing to.
                current.wait_stream(self._stream)
            try:
                self._record(graph, call)
            finally:
                # Where the end of a capture raises, PyTorch leaves the stream of the capture the current one.
                torch.cuda.set_stream(current)
        return graph.replay

    def _record(self, graph: torch.cuda.CUDAGraph, call: Callable[[], None]) -> None:
        broken_by = None
        try:
            # Other threads of the caller's process may use the device meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                try:
                    call()
                except Exception as error:
                    broken_by = error
                    raise
        except Exception as error:
            # The end of a broken capture raises, too, and does not know why it broke.
            if broken_by is None or broken_by is error:
                raise
            raise broken_by from error
        finally:
            del broken_by  # it holds this frame, which would hold it, and all that the call has made

    def mark(self) -> None:
        """Implements `GraphDevice.mark`."""
        with torch.cuda.device(self._device):
            self._done.record()

    def wait(self) -> None:
        """Implements `GraphDevice.wait`."""
        self._done.synchronize()

    def used_bytes(self) -> int:
        """Implements `GraphDevice.used_bytes`."""
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


def give_back_memory() -> None:
    """Gives CUDA back what PyTorch keeps of its memory, once nothing is being captured."""
    # A device that has failed has nothing to give; and before PyTorch 2.12 a failed capture counts as
    # under way for ever, and nothing is given back any more.
    with _capturing, suppress(RuntimeError):
        torch.cuda.empty_cache()


def choose_graph_device(wanted: GraphDevice | bool, device: torch.device) -> GraphDevice | None:
    """Chooses what captures what is computed on `device`; None where nothing does.

    Args:
        wanted: True is CUDA graphs on a CUDA device, unless the environment has NO_CUDA_GRAPH=1, as Kyutai's
            package has it.
    """
    if not isinstance(wanted, bool):
        return wanted
    is_forbidden = os.environ.get("NO_CUDA_GRAPH", "").lower() not in ("", "0", "no", "n")
    return CudaDevice(device) if wanted and device.type == "cuda" and not is_forbidden else None
