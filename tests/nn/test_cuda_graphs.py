"""What `CudaDevice` asks PyTorch for, and in which order; the GPU itself is stood in for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from unittest import mock

import pytest
import torch

from moshi_agent.nn.cuda_graphs import CudaDevice, give_back_memory

_NAMES = (
    "CUDAGraph", "Event", "Stream", "current_stream", "device", "empty_cache", "graph", "graph_pool_handle",
    "set_stream", "stream",
)  # fmt: skip


@pytest.fixture
def cuda() -> Iterator[mock.Mock]:
    calls = mock.Mock()
    for name in ("device", "graph", "stream"):
        getattr(calls, name).return_value = nullcontext()
    with mock.patch.multiple(torch.cuda, **{name: getattr(calls, name) for name in _NAMES}):
        yield calls


def _names(calls: mock.Mock) -> list[str]:
    return [name for name, *_ in calls.mock_calls]


@pytest.mark.parametrize("fails_at", [None, 1, 3])
def test_whoever_goes_on_waits_for_the_warm_up_whether_or_not_it_fails(
    cuda: mock.Mock, fails_at: int | None
) -> None:
    """A step that is taken without a graph writes to the tensors that the warm-up has written to."""
    device = CudaDevice(torch.device("cuda", 1))
    cuda.reset_mock()

    def call() -> None:
        cuda.call()
        if cuda.call.call_count == fails_at:
            raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own") if fails_at else nullcontext():
        device.capture(call)
    warm_up = ["call"] * (2 if fails_at != 1 else 1)
    wanted = ["CUDAGraph", "device", "current_stream", "Stream().wait_stream", "stream", *warm_up]
    wanted += ["current_stream().wait_stream"]
    wanted += [] if fails_at == 1 else ["graph", "call", "set_stream"]
    assert _names(cuda) == wanted
    assert cuda.Stream().wait_stream.call_args == mock.call(cuda.current_stream())
    assert cuda.current_stream().wait_stream.call_args == mock.call(cuda.Stream())


def test_a_capture_that_breaks_says_why(cuda: mock.Mock) -> None:
    """And not what its end says of it; the stream of the caller is the current one again."""

    class Broken(nullcontext[None]):
        def __exit__(self, *_: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    cuda.graph.return_value = Broken()
    cuda.call.side_effect = [None, None, torch.OutOfMemoryError("CUDA out of memory"), None, None, None]
    device = CudaDevice(torch.device("cuda"))
    with pytest.raises(torch.OutOfMemoryError):
        device.capture(cuda.call)
    with pytest.raises(RuntimeError, match="previous error"):
        device.capture(cuda.call)
    assert cuda.set_stream.call_args_list == [mock.call(cuda.current_stream())] * 2


@pytest.mark.parametrize("second", ["capture", "give_back_memory"])
def test_one_thing_at_a_time_is_captured_and_no_memory_given_back_meanwhile(
    cuda: mock.Mock, second: str
) -> None:
    """PyTorch allows neither: the other thread waits."""
    devices = [CudaDevice(torch.device("cuda")) for _ in range(2)]
    others = threading.Event()
    cuda.empty_cache.side_effect = others.set
    does = {"capture": lambda: devices[1].capture(others.set), "give_back_memory": give_back_memory}
    thread = threading.Thread(target=does[second])
    came_between: list[bool] = []

    def call() -> None:
        if not came_between:
            thread.start()
        came_between.append(others.wait(0.1))

    devices[0].capture(call)
    thread.join(10)
    assert came_between == [False] * 3 and others.is_set()


def test_memory_that_cannot_be_given_back_is_no_error(cuda: mock.Mock) -> None:
    """As after a capture that has failed, before PyTorch 2.12."""
    cuda.empty_cache.side_effect = RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
    give_back_memory()
    assert cuda.empty_cache.called
