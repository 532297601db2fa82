"""A device that fails on command: what belongs to one conversation ends that one, what is final ends all."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from moshi_agent import (
    AudioChunk,
    DeviceFull,
    Ended,
    Engine,
    EngineConfig,
    EngineUnhealthy,
    InputError,
    Prompt,
    SessionConfig,
)
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine import local
from moshi_agent.engine.commands import Close, InputFrame, Open
from moshi_agent.engine.event_queue import Delivery, Outlet
from moshi_agent.engine.step.frame_step import FrameStep
from moshi_agent.nn import device_errors
from tests.engine.stepped_core import FRAME_S, SILENCE, SteppedCore, audio_of, kinds_of, taken
from tests.small_models import small_lm

# As PyTorch words them.
NO_MEMORY = "CUDA out of memory. Tried to allocate 64.00 MiB. GPU 0 has a total capacity of 23.64 GiB"
ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"
PASSING = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle)`"
NOISE = np.random.default_rng(0).normal(0, 0.1, (8, 1920)).astype(np.float32)
PROMPT = Prompt(np.full((300, 5), 7), is_whole=True)  # three steps of so many at once


class Failing:
    """A device whose named operations fail while it is told so."""

    def __init__(
        self, step: FrameStep, monkeypatch: pytest.MonkeyPatch, error: Exception, *names: str
    ) -> None:
        self.fails = False
        for name in names:
            monkeypatch.setattr(step, name, self._of(getattr(step, name), error))

    def _of(self, operation: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def operate(*arguments: Any) -> Any:
            if self.fails:
                raise error
            return operation(*arguments)

        return operate


def opening(key: int, prompt: Prompt) -> Open:
    return Open(key, SessionConfig(seed=3, live=False, digital_silence=False, prompt=prompt))


def hearing(key: int, pcm: np.ndarray) -> InputFrame:
    return InputFrame(key, pcm, False, False, 0.0)


def collecting(sounds: list[np.ndarray]) -> Outlet:
    """Keeps what a conversation says."""

    def take(delivery: Delivery) -> None:
        sounds.extend(event.pcm for event in delivery.events if isinstance(event, AudioChunk))

    return take


def noting(names: list[str], name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    """Notes that an operation is called."""

    def operate(*arguments: Any) -> Any:
        names.append(name)
        return operation(*arguments)

    return operate


def end_of(session: Any) -> Ended:
    (end,) = kinds_of(taken(session), Ended)
    assert isinstance(end, Ended)
    return end


@pytest.mark.parametrize(
    ("error", "final", "memory"),
    [
        (RuntimeError(ASSERT), True, False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True, False),
        (RuntimeError("CUDA error: unspecified launch failure"), True, False),
        (RuntimeError("CUDA error: unknown error"), True, False),
        (RuntimeError(PASSING), False, False),
        (torch.OutOfMemoryError(NO_MEMORY), False, True),
        (RuntimeError("CUDA error: out of memory"), False, True),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            False,
            True,
        ),
        (MemoryError(), False, True),
        (RuntimeError("shape mismatch: unknown error"), False, False),
        (InputError("CUDA error: device-side assert triggered"), False, False),
    ],
)
def test_errors_that_last_are_told_from_those_that_pass(error: Exception, final: bool, memory: bool) -> None:
    assert device_errors.is_final(error) == final
    assert device_errors.is_out_of_memory(error) == memory


def test_what_the_allocator_of_this_machine_says_is_known() -> None:
    with (
        pytest.raises(DeviceFull, match="no memory left for a wish; accepted: less"),
        device_errors.memory_for("a wish", "less"),
    ):
        torch.empty(1 << 60)


@pytest.mark.parametrize("operation", ["prefill", "begin_row", "load_row", "save_row"])
def test_memory_that_ends_at_one_conversation_ends_that_one_alone(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    core = SteppedCore(small_checkpoint)
    neighbour = core.session(SessionConfig(digital_silence=False))
    config = SessionConfig(prompt=PROMPT)
    if operation == "load_row":  # only who comes second begins with a copy
        core.session(config).close()
        core.settle()
    device = Failing(core.step, monkeypatch, torch.OutOfMemoryError(NO_MEMORY), operation)
    for turn in range(4):  # more often than an engine would give up after
        device.fails = True
        key, reply, events = core.knock(config)
        neighbour.push(NOISE[turn])
        core.wait(FRAME_S)
        device.fails = False
        if operation in ("begin_row", "load_row"):
            assert isinstance(reply.exception(0), DeviceFull)
        elif operation == "prefill":
            end = events.get(0)
            assert isinstance(end, Ended) and "CUDA out of memory" in (end.error or "")
        else:  # its prompt is not kept, and that is all
            assert key in core.core._conversations
            core.send(Close(key))
    assert len(audio_of(taken(neighbour))) == 4 * 1920
    figures = core.core.metrics.snapshot()
    assert figures.healthy and figures.restarts == 0


def test_memory_that_ends_at_a_snapshot_is_told_to_who_asked(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = core.session()
    device = Failing(core.step, monkeypatch, torch.OutOfMemoryError(NO_MEMORY), "save_row")
    device.fails = True
    with pytest.raises(DeviceFull, match="accepted: to try again later"):
        reply = session.take_snapshot()
        core.settle()
        reply.result(10)
    session.push(SILENCE)
    core.wait(FRAME_S)
    assert session.is_open and len(audio_of(taken(session))) == 1920


@pytest.mark.parametrize("operation", ["launch", "begin_row", "prefill"])
def test_a_device_that_is_lost_is_final_at_once(
    core: SteppedCore, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    told: list[bool] = []
    core.core._failed = lambda: told.append(True)
    session = core.session()
    device = Failing(core.step, monkeypatch, RuntimeError(ASSERT), operation, "rebuild")
    device.fails = True
    if operation != "launch":
        core.knock(SessionConfig(prompt=PROMPT))
    if session.is_open:
        session.push(SILENCE)
    core.wait(FRAME_S)
    assert end_of(session).error == "the frame step failed: CUDA error: device-side assert triggered"
    assert told and not core.core.metrics.snapshot().healthy
    device.fails = False
    core.wait(120)  # it does not try again: nothing would succeed
    with pytest.raises(EngineUnhealthy, match=r"failed for this process.*accepted: .*process=True"):
        core.session()


def test_an_error_that_passes_is_forgiven(core: SteppedCore, monkeypatch: pytest.MonkeyPatch) -> None:
    session = core.session()
    device = Failing(core.step, monkeypatch, RuntimeError(PASSING), "launch")
    device.fails = True
    core.wait(0.3)
    device.fails = False
    assert end_of(session).reason == "error"
    assert core.session().is_open


def test_of_many_who_join_one_computes_a_piece_of_its_prompt_before_each_step(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = SteppedCore(small_checkpoint, capacity=6)
    talker = core.session(SessionConfig(live=False))
    order: list[str] = []
    monkeypatch.setattr(core.step, "prefill", noting(order, "prefill", core.step.prefill))
    monkeypatch.setattr(core.step, "launch", noting(order, "launch", core.step.launch))
    for number in range(5):
        prompt = replace(PROMPT, tokens=np.full((300, 5), number))
        core.inbox.request(opening(100 + number, prompt), lambda delivery: None)
    for pcm in NOISE:
        talker.push(pcm)
    core.settle()
    assert order.count("prefill") >= 15 and order.count("prefill") % 5 == 0
    while_talking = order[: 2 * len(NOISE)]
    assert while_talking == ["prefill", "launch"] * len(NOISE)


def test_conversations_with_one_new_prompt_compute_it_once(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, alone = SteppedCore(small_checkpoint), SteppedCore(small_checkpoint)
    order: list[str] = []
    once: list[str] = []
    monkeypatch.setattr(core.step, "prefill", noting(order, "prefill", core.step.prefill))
    monkeypatch.setattr(alone.step, "prefill", noting(once, "prefill", alone.step.prefill))
    sounds: dict[tuple[SteppedCore, int], list[np.ndarray]] = {}
    for where, count in ((alone, 1), (core, 3)):
        for key in range(count):
            where.inbox.request(opening(key, PROMPT), collecting(sounds.setdefault((where, key), [])))
        for key in range(count):
            for pcm in NOISE[:3]:
                where.send(hearing(key, pcm))
        where.settle()
    assert len(order) == len(once) >= 3
    expected, *others = [np.concatenate(sound) for sound in sounds.values()]
    assert len(expected) == 3 * 1920 and np.abs(expected).max() > 0
    assert all(np.array_equal(one, expected) for one in others)


def test_a_prompt_whose_first_conversation_leaves_is_computed_by_the_next(
    small_checkpoint: Checkpoint,
) -> None:
    core = SteppedCore(small_checkpoint)
    sounds: list[np.ndarray] = []
    core.inbox.request(opening(1, PROMPT), lambda delivery: None)
    core.inbox.request(opening(2, PROMPT), collecting(sounds))
    core.core.run_once()
    core.send(Close(1))
    core.send(hearing(2, NOISE[0]))
    core.settle()
    assert len(sounds) == 1


def test_kept_prompts_are_bounded_by_what_they_take(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = SteppedCore(small_checkpoint)
    rows = core.core._conversations._rows
    size = 0
    for number in range(3):
        prompt = replace(PROMPT, tokens=np.full((300, 5), number))
        core.session(SessionConfig(prompt=prompt)).close()
        core.settle()
        size = next(iter(rows._prompts.values())).num_bytes
        monkeypatch.setattr("moshi_agent.engine.rows.PROMPT_BYTES", 2 * size)
    assert len(rows._prompts) == 2


@pytest.mark.parametrize("started", [True, False])
def test_the_memory_is_free_when_close_returns(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    monkeypatch.setattr(local, "load_checkpoint", lambda *_, **__: replace(small_checkpoint, lm=small_lm()))
    engine = Engine(EngineConfig(device="cpu", capacity=2, admit_by_time=False))
    gc.collect()
    gc.disable()
    try:
        if started:
            engine.start()
            with engine.session(SessionConfig(live=False, prompt=PROMPT)) as session:
                session.push(NOISE[0])
        served = engine._backend._served  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        held = [weakref.ref(tensor) for tensor in served.step.state.tensors()]
        held += [weakref.ref(served.checkpoint.lm), weakref.ref(served.step), weakref.ref(served.core)]
        del served
        engine.close()
        assert [one() for one in held if one() is not None] == []
        with pytest.raises(EngineUnhealthy, match="closed"):
            engine.capacity()
        with pytest.raises(EngineUnhealthy, match=r"closed|not been started"):
            engine.session().open()
        assert engine.model.name and engine.metrics().live_sessions == 0
    finally:
        gc.enable()
