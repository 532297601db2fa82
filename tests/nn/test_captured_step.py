"""Steps of a stream as graphs: the same results, no row touched by a capture, and the way without."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from moshi_agent.errors import InputError
from moshi_agent.nn.captured_step import CapturedStep
from moshi_agent.nn.cuda_graphs import CudaDevice, choose_graph_device
from tests.engine.calling_device import CallingDevice, FailingDevice

_CPU = torch.device("cpu")


class Adder:
    """Adds what it is given to the sums of the rows that execute."""

    def __init__(self) -> None:
        self.sums = torch.zeros(3)
        self.eager_calls = 0

    def step(self, exec_mask: Tensor, x: Tensor, more: Tensor | None) -> tuple[Tensor, Tensor]:
        self.eager_calls += 1
        if x.shape[1] > 100:
            raise InputError("too much")
        total = x.sum(1) if more is None else x.sum(1) + more
        self.sums.copy_(torch.where(exec_mask, self.sums + total, self.sums))
        return self.sums, total


def _captured(adder: Adder, device: CallingDevice) -> CapturedStep:
    return CapturedStep(adder.step, 3, _CPU, device)


def test_a_step_is_captured_once_for_each_shape_and_counts_once() -> None:
    """The run that warms up executes no row, and what was returned stays what it was."""
    adder, device = Adder(), CallingDevice()
    step, ones = _captured(adder, device), torch.ones(3, 2)
    kept: list[Tensor] = []
    for number in range(4):
        sums, total = step(None, ones, None)
        kept.append(sums)
        assert sums.tolist() == [2.0 * (number + 1)] * 3 and total.tolist() == [2.0] * 3
    assert [one[0].item() for one in kept] == [2, 4, 6, 8]
    assert device.captured == 1
    sums, total = step(torch.tensor([True, False, True]), ones, torch.full((3,), 5.0))
    assert sums.tolist() == [15, 8, 15] and total.tolist() == [7] * 3
    assert step(None, torch.ones(3, 4), None)[0].tolist() == [19, 12, 19]
    assert device.captured == 3
    step(None, ones, None, kind="another")
    assert device.captured == 4
    assert sums.tolist() == [15, 8, 15]


def test_a_stream_of_ever_other_shapes_is_captured_no_further() -> None:
    adder, device = Adder(), CallingDevice()
    step = _captured(adder, device)
    for width in range(1, 20):
        step(None, torch.ones(3, width), None)
    assert device.captured == 8
    assert adder.sums.tolist() == [sum(range(1, 20))] * 3


@pytest.mark.parametrize("is_first_in_inference", [True, False])
def test_steps_are_taken_in_whatever_mode(is_first_in_inference: bool) -> None:
    """Buffers made in inference mode can be written to under `no_grad`, and the reverse."""
    step = _captured(Adder(), CallingDevice())
    for number in range(4):
        mode = torch.inference_mode() if (number % 2 == 0) == is_first_in_inference else torch.no_grad()
        with mode:
            assert step(None, torch.ones(3, 1), None)[0].tolist() == [number + 1.0] * 3


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "no memory is left"),
        (RuntimeError("CUDA error: operation not permitted\nCompile with"), "operation not permitted"),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_where_capturing_fails_steps_go_on_without(
    error: Exception, told: str, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is said once; graphs that are there serve."""
    adder = Adder()
    step = _captured(adder, FailingDevice(at, error))
    with caplog.at_level(logging.WARNING, "moshi_agent.nn"):
        for width in (1, 2, 3, 1):
            step(None, torch.ones(3, width), None)
    assert adder.sums.tolist() == [7] * 3
    assert caplog.text.count("cannot be captured as a CUDA graph") == 1 and told in caplog.text
    assert "Compile with" not in caplog.text


def test_a_device_that_is_lost_is_not_gone_on_with() -> None:
    step = _captured(Adder(), FailingDevice(0, RuntimeError("CUDA error: unspecified launch failure")))
    with pytest.raises(RuntimeError, match="launch failure"):
        step(None, torch.ones(3, 1), None)


def test_input_that_is_refused_is_refused_and_nothing_else() -> None:
    """The next step is captured."""
    adder, device = Adder(), CallingDevice()
    step = _captured(adder, device)
    with pytest.raises(InputError, match="too much"):
        step(None, torch.ones(3, 101), None)
    step(None, torch.ones(3, 1), None)
    assert device.captured == 1 and adder.sums.tolist() == [1] * 3


def test_input_that_fails_without_a_graph_as_well_does_not_end_the_capturing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor is it said that a step could not be captured."""
    adder, device = Adder(), CallingDevice()
    step = _captured(adder, device)
    with pytest.raises(RuntimeError, match="must match"):
        step(None, torch.ones(3, 1), torch.ones(2))
    step(None, torch.ones(3, 1), torch.ones(3))
    assert device.captured == 1 and adder.sums.tolist() == [2] * 3
    assert not caplog.text


def test_a_graph_keeps_no_weights_that_autocast_has_converted() -> None:
    """They are freed where autocast ends."""
    keeps_them: list[bool] = []

    def double(exec_mask: Tensor, x: Tensor) -> tuple[Tensor]:
        keeps_them.append(torch.is_autocast_cache_enabled())
        return (2 * x,)

    step = CapturedStep(double, 3, _CPU, CallingDevice())
    with torch.autocast("cpu", torch.bfloat16):
        step(None, torch.ones(3, 1))
        assert torch.is_autocast_cache_enabled()
    assert keeps_them == [False, True]  # captured, replayed


def test_who_captures_is_chosen_by_the_device_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, device = torch.device("cuda"), CallingDevice()
    made: list[torch.device] = []
    monkeypatch.setattr(CudaDevice, "__init__", lambda self, device: made.append(device))
    assert choose_graph_device(True, _CPU) is None and choose_graph_device(False, cuda) is None
    assert choose_graph_device(device, _CPU) is device
    assert isinstance(choose_graph_device(True, cuda), CudaDevice)
    for value, count in (("0", 2), ("1", 2), ("no", 3), ("yes", 3)):
        monkeypatch.setenv("NO_CUDA_GRAPH", value)
        choose_graph_device(True, cuda)
        assert len(made) == count
