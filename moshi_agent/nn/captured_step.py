"""One step of a stream as CUDA graphs, for those who take the steps themselves, frame by frame.

A step is thousands of small kernels, and launching them one by one takes a host longer than a GPU needs to
compute them. A graph launches all at once, but its sizes and addresses are fixed: so there is one for each
shape of what a step is given, which is copied to where the graph reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.errors import MoshiAgentError
from moshi_agent.nn.attention import steady_attention
from moshi_agent.nn.cuda_graphs import GraphDevice
from moshi_agent.nn.device_errors import is_final, is_out_of_memory

_log = logging.getLogger("moshi_agent.nn")
_MOST_GRAPHS = 8  # of one step; who gives it yet other shapes has no stream of frames

# The rows that execute, [B] bool, and what else there is, each [B, ...] or None -> tensors.
Step = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class _Graph:
    given: list[Tensor | None]  # the exec mask first
    results: list[Tensor]
    replay: Callable[[], None]

    def run(self, given: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        for buffer, one in zip(self.given, given, strict=True):
            if buffer is not None and one is not None:
                buffer.copy_(one)
        self.replay()
        return tuple(result.clone() for result in self.results)


class CapturedStep:
    """Takes the steps of one stream as graphs, each captured when a step first has its shapes.

    Where capturing fails every kernel is launched by itself from then on, and a warning says so.

    Args:
        step: changes nothing but tensors that stay where they are, and those only in rows that execute: what
            runs to warm up, before a capture, executes none.
        rows: of the stream.
        device: of its tensors.
        graphs: what captures.
    """

    def __init__(self, step: Step, rows: int, device: torch.device, graphs: GraphDevice) -> None:
        self._step = step
        self._everybody = torch.ones(rows, dtype=torch.bool, device=device)
        self._device = graphs
        self._graphs: dict[Hashable, _Graph] = {}
        self._gave_up = False

    def __call__(
        self, exec_mask: Tensor | None, *given: Tensor | None, kind: Hashable = None
    ) -> tuple[Tensor, ...]:
        """Takes one step.

        Args:
            exec_mask: [B] bool, the rows that execute; None is all.
            given: what `step` takes beside it.
            kind: of the step, where it computes something else for the same shapes.

        Returns:
            What `step` does, as tensors that are the caller's own.
        """
        whole = (self._everybody if exec_mask is None else exec_mask, *given)
        key = (kind, *(None if one is None else (one.shape, one.dtype) for one in given))
        failed = None
        if key not in self._graphs and not self._gave_up and len(self._graphs) < _MOST_GRAPHS:
            failed = self._capture(key, whole)
        if key in self._graphs:
            return self._graphs[key].run(whole)
        outputs = self._step(*whole)
        if failed is not None:  # and the step has not: capturing is at fault, and not what the step was given
            self._gave_up = True
            told = "a step cannot be captured as a CUDA graph (%s): each kernel is launched by itself, slower"
            _log.warning(told, failed)
        return outputs

    def _capture(self, key: Hashable, given: tuple[Tensor | None, ...]) -> str | None:
        """Captures a graph, or tells why it cannot."""
        with torch.inference_mode(False):  # what is made here is written to in whatever mode steps are taken
            buffers = [None if one is None else torch.empty_like(one) for one in given]
        for buffer, one in zip(buffers[1:], given[1:], strict=True):
            if buffer is not None and one is not None:
                buffer.copy_(one)
        mask = buffers[0]
        assert mask is not None
        mask.zero_()
        results: list[Tensor] = []

        def step() -> None:
            outputs = self._step(*buffers)
            if not results:
                with torch.inference_mode(False):
                    results.extend(torch.empty_like(output) for output in outputs)
            for result, output in zip(results, outputs, strict=True):
                result.copy_(output)

        try:
            with steady_attention(mask.device), _autocast_without_cache():
                replay = self._device.capture(step)
        except MoshiAgentError:
            raise  # of what the step was given: it would fail without a graph as well
        except Exception as error:
            if is_final(error):
                raise
            return "no memory is left" if is_out_of_memory(error) else str(error).partition("\n")[0]
        self._graphs[key] = _Graph(buffers, results, replay)
        return None


@contextmanager
def _autocast_without_cache() -> Generator[None]:
    """Has `torch.autocast` keep no converted weights: it frees them where it ends, and a graph goes on."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
