"""Steps in fixed buffers: sizes, lengths and limits of graphs, and that a padded step is the step itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.checkpoint.load import prepare_for_cuda
from moshi_agent.config import KVCache, SamplingConfig
from moshi_agent.engine.step import row_states
from moshi_agent.engine.step.frame_step import FrameStep, RowInput, RowOutput
from moshi_agent.engine.step.runners import (
    CaptureLimits,
    GraphRunner,
    Key,
    choose_lengths,
    choose_sizes,
)
from moshi_agent.engine.step.step_tensors import InputBuffers, ResultTensors, StepShape, StepTensors
from moshi_agent.errors import ConfigError, DeviceFull
from moshi_agent.models.lm import LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn import cache_attention, fused
from moshi_agent.nn.cuda_graphs import GraphDevice
from moshi_agent.nn.sampling import MOST_CANDIDATES, RowSampling
from tests.engine.calling_device import CallingDevice, FailingDevice
from tests.small_models import small_lm, small_lm_config, small_mimi, small_mimi_config

_CPU = torch.device("cpu")
_SAMPLED = SamplingConfig(temp=0.9, temp_text=0.9, top_k=20, top_k_text=10, seed=5)


def _checkpoint(context: int = 8, packed: bool = True) -> Checkpoint:
    mimi, lm = small_mimi(), small_lm(context)
    mimi.set_num_codebooks(2)
    if packed:
        mimi.pack("float32")
        lm.pack("float32")
    return Checkpoint(
        name="small", mimi=mimi, mimi_config=mimi.config, lm=lm, config=lm.config, tokenizer=None
    )


def _step(
    checkpoint: Checkpoint,
    rows: int,
    graphs: GraphDevice | bool,
    kv_cache: KVCache = "float",
    sampling: SamplingConfig = _SAMPLED,
) -> FrameStep:
    step = FrameStep(checkpoint, rows, graphs=graphs, kv_cache=kv_cache)
    for row in range(rows):
        step.begin_row(row, sampling)
    return step


def _inputs(generator: np.random.Generator, rows: Sequence[int], streams: int) -> list[RowInput]:
    """Input of all kinds: heard or not, forced here and there, now and then with a piece to say."""
    inputs: list[RowInput] = []
    for row in rows:
        pcm = generator.normal(0, 0.1, 1920).astype(np.float32) if generator.random() < 0.9 else None
        forced = generator.integers(0, 30, streams) if generator.random() < 0.2 else None
        if forced is not None:
            forced[generator.random(streams) < 0.5] = -2
        piece = 7 if generator.random() < 0.1 else -1
        inputs.append(RowInput(row=row, pcm=pcm, forced=forced, next_piece=piece))
    return inputs


def _assert_same(got: Sequence[RowOutput], wanted: Sequence[RowOutput]) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert (one.text, one.next_text, one.healthy) == (other.text, other.next_text, other.healthy)
        assert (one.audio is None) == (other.audio is None)
        if one.audio is not None and other.audio is not None:
            np.testing.assert_array_equal(one.audio, other.audio)


@pytest.mark.parametrize("kv_cache", ["float", "int8"])
def test_steps_in_buffers_give_the_bits_of_plain_steps(kv_cache: KVCache) -> None:
    """Whoever has a frame, rows padded and masked or not, over the wrap of the ring: the same bits."""
    checkpoint, generator = _checkpoint(), np.random.default_rng(3)
    device = CallingDevice()
    padded, plain = (_step(checkpoint, 5, graphs, kv_cache) for graphs in (device, False))
    heard: set[bytes] = set()
    for _ in range(25):
        rows = np.flatnonzero(generator.random(5) < 0.6).tolist() or [2]
        inputs = _inputs(generator, rows, padded.num_streams)
        outputs = padded.run(inputs)
        _assert_same(outputs, plain.run(inputs))
        heard |= {output.audio.tobytes() for output in outputs if output.audio is not None}
    assert len(heard) > 25
    assert device.captured == len(choose_sizes(5)) == 4


def test_a_graph_has_the_products_of_float32_whatever_the_program_around_it_asks_for() -> None:
    """A precision set for the whole process is not captured, and is as it was afterwards."""
    seen: set[str] = set()

    class LookingDevice(CallingDevice):
        def capture(self, call: Callable[[], None]) -> Callable[[], None]:
            seen.add(torch.get_float32_matmul_precision())
            return super().capture(call)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        GraphRunner(_no_step, _shape(2), LookingDevice(), (8,)).warm_up()
        assert seen == {"highest"} and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_capturing_among_live_rows_leaves_them_as_they_are() -> None:
    """What warms a graph up is masked: conversations go on as if it had not run."""
    checkpoint, generator = _checkpoint(), np.random.default_rng(4)
    warmed, plain = _step(checkpoint, 2, CallingDevice()), _step(checkpoint, 2, False)
    for turn in range(14):
        inputs = _inputs(generator, [0, 1], warmed.num_streams)
        _assert_same(warmed.run(inputs), plain.run(inputs))
        if turn in (3, 11):  # before and after the ring is full
            warmed._runner = warmed._new_runner(CallingDevice())
            warmed.warm_up()


def test_a_step_takes_the_shortest_graph_that_holds_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are counted on the host; a row that is loaded brings its own count."""
    checkpoint = _checkpoint(context=300)
    step = _step(checkpoint, 4, CallingDevice())
    runner, chosen = step._runner, list[Key]()
    assert isinstance(runner, GraphRunner)
    choose = runner.choose
    monkeypatch.setattr(runner, "choose", lambda *need: chosen.append(choose(*need)) or chosen[-1])
    silence = np.zeros(1920, np.float32)
    step.run([RowInput(row=0, pcm=silence)])
    step.load_row(2, replace(step.save_row(0), steps=255))
    step.run([RowInput(row=2, pcm=silence)])  # its 256th position
    step.run([RowInput(row=2, pcm=silence)])
    step.run([RowInput(row=0, pcm=silence), RowInput(row=1, pcm=silence)])  # the long row has no input
    step.load_row(1, replace(step.save_row(0), steps=5000))
    step.run([RowInput(row=1, pcm=silence)])
    assert chosen == [(1, 256), (4, 256), (4, 300), (2, 256), (2, 300)]


def test_measured_steps_read_full_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured for the admission of conversations is the worst that they can cost."""
    step = _step(_checkpoint(context=300), 3, CallingDevice())
    runner, chosen = step._runner, list[Key]()
    assert isinstance(runner, GraphRunner)
    choose = runner.choose
    monkeypatch.setattr(runner, "choose", lambda *need: chosen.append(choose(*need)) or chosen[-1])
    times = step.measure([1, 2], repeats=1)
    assert [len(of_count) for of_count in times.values()] == [1, 1]
    assert chosen == [(1, 300), (1, 300), (2, 300), (2, 300)]
    assert step.steps_taken(0) == 0 and not step.state.lm.temporal.offset.any()


def test_shorter_reads_change_nothing_that_can_be_heard() -> None:
    """A graph that reads 256 positions and one that reads them all choose the same tokens."""
    checkpoint, generator = _checkpoint(context=300), np.random.default_rng(6)
    short, long = _step(checkpoint, 1, CallingDevice()), _step(checkpoint, 1, CallingDevice())
    long._steps = [299]
    for _ in range(6):
        inputs = _inputs(generator, [0], short.num_streams)
        (one,), (other,) = short.run(inputs), long.run(inputs)
        assert (one.text, one.next_text) == (other.text, other.next_text)


def _no_step(count: int, given: StepTensors, length: int | None) -> ResultTensors:
    return ResultTensors.new(_shape(count), _CPU)


def _shape(rows: int) -> StepShape:
    return StepShape(rows=rows, frame_size=1920, streams=5, context=3000, device=_CPU)


@given(rows=st.integers(1, 600), data=st.data())
@settings(max_examples=50)
def test_the_graph_chosen_holds_the_step_and_no_smaller_one_does(rows: int, data: st.DataObject) -> None:
    """For every capacity, count and length."""
    lengths = choose_lengths(3000, reads_what_is_filled=False)
    runner = GraphRunner(_no_step, _shape(rows), CallingDevice(), lengths, CaptureLimits(graphs=1000))
    runner.warm_up()
    assert len(runner.captured) == len(runner.sizes) * len(lengths)
    count, longest = data.draw(st.integers(1, rows)), data.draw(st.integers(1, 3000))
    size, length = runner.choose(count, longest)
    assert size >= count and length >= longest
    assert not [one for one in runner.sizes if count <= one < size]
    assert not [one for one in lengths if longest <= one < length]


def test_sizes_and_lengths_end_in_the_largest() -> None:
    """The lists are short, ascending, and hold what the engine holds."""
    assert choose_sizes(1) == (1,)
    assert choose_sizes(20) == (1, 2, 4, 8, 16, 20)
    assert choose_sizes(160) == (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 128, 160)
    assert choose_lengths(3000, reads_what_is_filled=False) == (256, 768, 1536, 3000)
    assert choose_lengths(3000, reads_what_is_filled=True) == (3000,)
    assert choose_lengths(128, reads_what_is_filled=False) == (128,)


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (CaptureLimits(graphs=3), 3),
        (CaptureLimits(num_bytes=1500), 2),
        (CaptureLimits(seconds=0.0), 1),
    ],
)
def test_capturing_stops_at_its_limits_and_any_step_still_runs(
    limits: CaptureLimits, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The largest graph comes first and stands in for those that are missing; the cost is logged."""
    runner = GraphRunner(_no_step, _shape(8), CallingDevice(bytes_each=1000), (256, 3000), limits)
    with caplog.at_level(logging.INFO, "moshi_agent.engine"):
        runner.warm_up()
    assert len(runner.captured) == count
    assert (8, 3000) in runner.captured
    assert runner.choose(8, 10) == (8, 3000)
    assert f"{count} of 8 graphs" in caplog.text


_CAPTURE_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: operation failed due to a previous error during capture\nCompile with ..."),
]


@pytest.mark.parametrize("error", _CAPTURE_ERRORS)
def test_where_capturing_fails_the_graphs_that_are_there_serve(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The largest stands in for the others; what it costs is said where everybody reads it."""
    runner = GraphRunner(_no_step, _shape(8), FailingDevice(2, error), (256, 3000))
    with caplog.at_level(logging.WARNING, "moshi_agent.engine"):
        runner.warm_up()
    assert runner.captured == [(1, 3000), (8, 3000)]
    assert runner.launch(2, 10, [])().audio.shape == (2, 1920)
    assert "2 of 8 graphs" in caplog.text and "of 2 rows and 3000 positions cannot be captured" in caplog.text
    assert "cost as much as the next larger" in caplog.text and "Compile with" not in caplog.text


@pytest.mark.parametrize(
    ("error", "kind"), [(_CAPTURE_ERRORS[0], DeviceFull), (_CAPTURE_ERRORS[1], ConfigError)]
)
def test_the_first_capture_that_fails_names_the_way_without(error: Exception, kind: type[Exception]) -> None:
    runner = GraphRunner(_no_step, _shape(8), FailingDevice(0, error), (3000,))
    with pytest.raises(kind, match=r"8 rows cannot be captured.*accepted: cuda_graphs=False"):
        runner.warm_up()


def test_a_device_that_is_lost_in_a_capture_is_not_gone_on_with() -> None:
    runner = GraphRunner(
        _no_step, _shape(8), FailingDevice(2, RuntimeError("CUDA error: unspecified launch failure")), (3000,)
    )
    with pytest.raises(RuntimeError, match="launch failure"):
        runner.warm_up()


def test_draws_that_cost_the_same_are_the_same_draws() -> None:
    """A row of a graph draws what it would draw with as many candidates as its settings need."""
    free, constant = (RowSampling(2, _CPU, _SAMPLED, constant_cost=one) for one in (False, True))
    assert (free.widest(text=True, card=4000), constant.widest(text=True, card=4000)) == (10, MOST_CANDIDATES)
    assert constant.widest(text=False, card=100) == 100
    greedy = RowSampling(2, _CPU, SamplingConfig(greedy=True), constant_cost=True)
    assert not greedy.all_greedy


def test_settings_given_later_reach_a_captured_step() -> None:
    """Settings are tensors that are written in place; the graph reads them where they are."""
    checkpoint, generator = _checkpoint(), np.random.default_rng(8)
    step, plain = _step(checkpoint, 1, CallingDevice()), _step(checkpoint, 1, False)
    step.warm_up()
    for config in (SamplingConfig(greedy=True), SamplingConfig(temp=1.5, temp_text=2.0, seed=9)):
        for one in (step, plain):
            one.set_sampling(0, config)
        for _ in range(4):
            inputs = _inputs(generator, [0], step.num_streams)
            _assert_same(step.run(inputs), plain.run(inputs))


def test_rebuilt_rows_are_new_rows_in_the_same_place() -> None:
    """Graphs know the state by its address."""
    checkpoint = _checkpoint()
    step, fresh = _step(checkpoint, 2, CallingDevice()), _step(checkpoint, 2, CallingDevice())
    addresses = [tensor.data_ptr() for tensor in step.state.tensors()]
    inputs = _inputs(np.random.default_rng(1), [0, 1], step.num_streams)
    first = step.run(inputs)
    step.state.lm.temporal.kv.fill_(torch.nan)
    step.rebuild()
    _assert_same(step.run(inputs), first)
    _assert_same(fresh.run(inputs), first)
    assert addresses == [tensor.data_ptr() for tensor in step.state.tensors()]


def test_a_row_begins_and_moves_with_what_is_filled_of_its_cache_alone() -> None:
    """Nothing of an earlier conversation is left behind it, and nothing that was never filled is touched."""
    step, generator = _step(_checkpoint(), 3, False), np.random.default_rng(3)
    kv = step.state.lm.temporal.kv  # [rows, layers, 2, heads, 8, D]

    def run(rows: list[int], times: int) -> None:
        for _ in range(times):
            step.run(_inputs(generator, rows, step.num_streams))

    run([0, 1], 2)
    kv[2, ..., 4:, :] = 7.0  # where it would be seen
    step.begin_row(2, _SAMPLED)
    assert (kv[2, ..., 4:, :] == 7).all() and not kv[2, ..., :1, :].any()
    step.move_row(0, 2)
    assert (kv[2, ..., 4:, :] == 7).all() and torch.equal(kv[2, ..., :4, :], kv[0, ..., :4, :])
    kv[2, ..., 4:, :] = 0.0
    run([0, 1, 2], 4)
    step.move_row(2, 0)
    step.begin_row(1, _SAMPLED)
    step.move_row(1, 2)
    for mine, other in zip(step.save_row(1).tensors, step.save_row(2).tensors, strict=True):
        assert torch.equal(mine, other)
    assert not kv[1:].any() and kv[0, ..., :6, :].any()
    run([0], 12)
    step.load_row(1, step.save_row(0))
    assert torch.equal(kv[1], kv[0])
    step.begin_row(1, _SAMPLED)
    assert not kv[1].any()


def test_a_row_whose_prompt_failed_half_way_begins_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    step = _step(_checkpoint(), 1, False)
    whole = row_states.prefill

    def fail(*given: object) -> None:
        whole(*given)  # pyright: ignore[reportArgumentType]
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(row_states, "prefill", fail)
    with pytest.raises(DeviceFull):
        step.prefill(0, np.zeros((5, step.num_streams), np.int64))
    assert step.state.lm.temporal.kv[0, ..., 4, :].any()
    step.begin_row(0, _SAMPLED)
    assert not step.state.lm.temporal.kv.any()


def test_what_a_step_has_given_outlives_the_next() -> None:
    """Audio is copied out of the buffers."""
    step, generator = _step(_checkpoint(), 1, CallingDevice()), np.random.default_rng(2)
    outputs = [step.run(_inputs(generator, [0], step.num_streams))[0] for _ in range(6)]
    heard = [output.audio for output in outputs if output.audio is not None]
    assert len(heard) >= 2
    assert not np.shares_memory(heard[0], heard[-1])


@pytest.mark.parametrize("kernel", [False, True])
def test_a_step_asks_the_device_nothing(kernel: bool) -> None:
    """On tensors without values, which say they are CUDA's: to look at one, or to bring one along, raises."""
    with torch.device("meta"):
        mimi, lm = MimiModel(small_mimi_config()), LMModel(small_lm_config(300)).to(torch.bfloat16)
        mimi.set_num_codebooks(2)
        checkpoint = Checkpoint(
            name="small", mimi=mimi, mimi_config=mimi.config, lm=lm, config=lm.config, tokenizer=None
        )
        step = FrameStep(checkpoint, 4, kv_cache="int8", graphs=CallingDevice())
    shape = StepShape(rows=3, frame_size=1920, streams=step.num_streams, context=300, device=lm.device)
    given = InputBuffers.new(shape, lm.device).whole()
    on_cuda = property(lambda tensor: tensor.device.type == "meta")
    with (
        mock.patch.object(torch.Tensor, "is_cuda", on_cuda),
        mock.patch.object(cache_attention, "serves", lambda config, device: kernel),
        mock.patch.object(fused, "serves", lambda x: kernel),
        mock.patch.object(fused, "silu_times", lambda x: torch.empty_like(x[..., : x.shape[-1] // 2])),
        mock.patch.object(fused, "add_and_norm", lambda x, *rest: (x, torch.empty_like(x))),
        mock.patch.object(
            fused, "noise", lambda key, *sizes: torch.empty(3, *sizes[1::2], device=key.device)
        ),
        mock.patch.object(fused, "draw", lambda best, tokens, *rest: torch.empty_like(tokens[:, 0])),
        mock.patch.object(cache_attention, "store", lambda heads, *rest: heads[:, :2]),
        mock.patch.object(cache_attention, "attend", lambda queries, *rest: torch.empty_like(queries)),
        torch.inference_mode(),
    ):
        result = step.compute(3, given, 300)
    wanted = ResultTensors.new(shape, lm.device)
    for got, buffer in zip(result.tensors(), wanted.tensors(), strict=True):
        assert (got.shape, got.dtype, got.device) == (buffer.shape, buffer.dtype, buffer.device)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# Torch says so on its first use, and here a warning is an error.
ignores_prototype = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")


def _on_cuda(graphs: bool, kv_cache: KVCache, head_dim: int = 64) -> FrameStep:
    """With heads of 64 the kernels of `cache_attention` serve; with heads of 8 PyTorch's attention does."""
    torch.manual_seed(0)
    config = small_lm_config(context=300)
    lm = LMModel(replace(config, temporal=replace(config.temporal, dim=2 * head_dim)))
    lm.init_weights()
    mimi = small_mimi().to("cuda")
    mimi.set_num_codebooks(2)
    checkpoint = Checkpoint(
        name="small",
        mimi=mimi,
        mimi_config=mimi.config,
        lm=lm.eval().to("cuda", torch.bfloat16),
        config=lm.config,
        tokenizer=None,
    )
    prepare_for_cuda(checkpoint)
    step = FrameStep(checkpoint, 4, kv_cache=kv_cache, graphs=graphs)
    for row in range(4):
        step.begin_row(row, SamplingConfig(greedy=True))
    return step


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("kv_cache", ["float", "int8"])
def test_captured_steps_follow_the_eager_ones(kv_cache: KVCache, head_dim: int) -> None:
    """On the device, tokens forced so that both stay on one path: audio within a stated tolerance."""
    captured, eager = _on_cuda(True, kv_cache, head_dim), _on_cuda(False, kv_cache, head_dim)
    captured.warm_up()
    generator = np.random.default_rng(5)
    for _ in range(20):
        rows = np.flatnonzero(generator.random(4) < 0.7).tolist() or [1]
        inputs = [
            RowInput(
                row=row,
                pcm=generator.normal(0, 0.1, 1920).astype(np.float32),
                forced=generator.integers(0, 30, captured.num_streams),
            )
            for row in rows
        ]
        for one, other in zip(captured.run(inputs), eager.run(inputs), strict=True):
            assert one.healthy and (one.text, one.next_text) == (other.text, other.next_text)
            if one.audio is not None and other.audio is not None:
                np.testing.assert_allclose(one.audio, other.audio, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
@ignores_prototype
def test_a_captured_step_waits_for_the_device_once() -> None:
    """Nothing in it synchronises but the wait at its end, which torch's check does not count."""
    step = _on_cuda(True, "int8")
    step.warm_up()
    inputs = [RowInput(row=row, pcm=np.zeros(1920, np.float32)) for row in range(3)]
    step.run(inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.run(inputs)
        step.set_sampling(0, _SAMPLED)
        step.begin_row(3, _SAMPLED)
        step.move_row(3, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_gpu
@ignores_prototype
def test_an_eager_step_could_be_captured() -> None:
    """The step itself, every mask given, never waits for the device."""
    step = _on_cuda(False, "float")
    shape = StepShape(rows=4, frame_size=1920, streams=step.num_streams, context=300, device=step.device)
    given = InputBuffers.new(shape, step.device).whole()
    step.sampling = RowSampling(4, step.device, _SAMPLED, constant_cost=True)
    with torch.inference_mode():
        step.compute(4, given, 300)
        torch.cuda.set_sync_debug_mode("error")
        try:
            step.compute(4, given, 300)
        finally:
            torch.cuda.set_sync_debug_mode("default")
