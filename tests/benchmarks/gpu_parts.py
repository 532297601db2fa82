"""What on_gpu.py measures beside tests and callers. Each part prints and writes its figures."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from random_checkpoint import draw

from moshi_agent import DeviceFull, Engine, SessionConfig, load_checkpoint
from moshi_agent.audio.files import read_audio
from moshi_agent.audio.framing import FRAME_SAMPLES, Samples
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.checkpoint.quantised import Rounding
from moshi_agent.cli.machine import machine_name, versions
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.engine.step.memory import free_bytes
from moshi_agent.engine.step.runners import GraphRunner
from moshi_agent.models.generator import Chooser, StepInput
from moshi_agent.models.lm_gen import LMGen
from moshi_agent.nn import cache_attention, fused
from moshi_agent.nn.cuda_graphs import CudaDevice
from moshi_agent.nn.kv_cache import SCALE_DTYPE, LayerCache
from moshi_agent.questions import sample_questions

ROUNDINGS: dict[str, Rounding] = {"int8-weights": "int8", "int4-weights": "int4"}  # of parts
ROWS = (1, 8, 16, 32, 64, 80, 128, 160)
_CERTAIN = 128  # conversations whose int8 caches fit there with room to spare
_LARGEST_FLOAT = 80  # conversations whose bfloat16 caches fit beside the weights on 140 GB


class Figures:
    """What has been found, on disk as soon as it is noted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {}

    def note(self, name: str, value: object) -> None:
        self._found[name] = value
        self._path.write_text(json.dumps(self._found), encoding="utf-8")


def steps(options: argparse.Namespace, figures: Figures) -> None:
    """The frame step by the number of conversations, all of whose caches are full."""
    most = min(options.most, _LARGEST_FLOAT) if options.part == "float" else options.most
    counts = [count for count in ROWS if count <= most]
    # What fits for certain has its figures before more is tried.
    certain = [count for count in counts if count <= _CERTAIN]
    groups = [certain, *([count] for count in counts if count > _CERTAIN)]
    started = time.perf_counter()
    checkpoint = draw(options.device, options.scale, options.context, ROUNDINGS.get(options.part))
    table: dict[int, list[float]] = {}
    for group in groups:
        try:
            _time_rows(checkpoint, group, table, options, figures, started)
        except DeviceFull as error:
            print(f"{group}: {error}", flush=True)
            figures.note("does_not_fit", str(error))


def _time_rows(
    checkpoint: Checkpoint,
    counts: list[int],
    table: dict[int, list[float]],
    options: argparse.Namespace,
    figures: Figures,
    started: float,
) -> None:
    """So many conversations each, with one frame step for all of them."""
    step = FrameStep(checkpoint, max(counts), kv_cache="float" if options.part == "float" else "int8")
    loaded = time.perf_counter()
    step.warm_up()
    print(f"{machine_name(options.device)}, {options.part}, {step.row_bytes / 1e9:.3f} GB a conversation")
    print(f"drawn in {loaded - started:.1f} s, captured in {time.perf_counter() - loaded:.1f} s")
    figures.note("machine", machine_name(options.device))
    figures.note("versions", versions() | _library_versions())
    figures.note("row_gb", step.row_bytes / 1e9)
    figures.note("capture_s", time.perf_counter() - loaded)
    figures.note("free_gb", free_bytes(step.device) / 1e9)
    if isinstance(step._runner, GraphRunner):
        figures.note("graphs", step._runner.captured)
    print("| rows | p50 ms | p95 ms | p99 ms |\n|-----:|-------:|-------:|-------:|", flush=True)
    for rows in counts:
        times_ms = step.measure([rows], options.repeats)[rows]
        table[rows] = np.percentile(times_ms, (50, 95, 99)).round(3).tolist()
        p50, p95, p99 = table[rows]
        print(f"| {rows:4} | {p50:6.2f} | {p95:6.2f} | {p99:6.2f} |", flush=True)
        figures.note("p50_p95_p99_ms", table)
    figures.note("free_gb_after", free_bytes(step.device) / 1e9)
    step.close()


def one(options: argparse.Namespace, figures: Figures) -> None:
    """One conversation: the whole step with either cache, its parts, and where its time goes."""
    checkpoint = draw(options.device, options.scale, options.context)
    for kv_cache in ("int8", "float"):
        step = FrameStep(checkpoint, 1, kv_cache=kv_cache)
        times_ms = step.measure([1], 3 * options.repeats)[1]
        p50, p95, p99 = np.percentile(times_ms, (50, 95, 99)).round(3).tolist()
        print(f"{kv_cache}: {p50:.2f} ms, p95 {p95:.2f}, p99 {p99:.2f}", flush=True)
        figures.note(f"{kv_cache}_p50_p95_p99_ms", [p50, p95, p99])
    with mock.patch.object(fused, "serves", lambda x: False):
        times_ms = FrameStep(checkpoint, 1, kv_cache="int8").measure([1], options.repeats)[1]
    print(f"int8, without the kernels of `fused`: {np.median(times_ms):.2f} ms", flush=True)
    figures.note("int8_without_fused_p50_ms", float(np.median(times_ms)))
    for rows in (1, min(32, options.most)):
        step = FrameStep(checkpoint, rows, kv_cache="int8")
        for row in range(rows):
            step.fill_row(row)
        with step.attention():
            parts = {name: _time(call, options) for name, call in _parts_of(step, rows).items()}
        print(f"{rows} rows:", ", ".join(f"{name} {ms:.3f} ms" for name, ms in parts.items()), flush=True)
        figures.note(f"parts_ms_of_{rows}", parts)
    _known_api(checkpoint, options, figures)
    if torch.device(options.device).type == "cuda":
        _profile(FrameStep(checkpoint, 1, kv_cache="int8"), figures)


def _known_api(checkpoint: Checkpoint, options: argparse.Namespace, figures: Figures) -> None:
    """A frame by Kyutai's API, encode, step, decode: captured, and launched kernel by kernel."""
    mimi, lm = checkpoint.mimi, checkpoint.conversation_lm()
    pcm = torch.randn(1, 1, mimi.frame_size, device=options.device) * 0.1
    for name, graphs in (("captured", True), ("launched", False)):
        generator, mimi.cuda_graphs = LMGen(lm, cuda_graphs=graphs), graphs
        times_ms: list[float] = []
        with torch.no_grad(), generator.streaming(1), mimi.streaming(1):
            for _ in range(5 + options.repeats):
                started = time.perf_counter()
                tokens = generator.step(mimi.encode(pcm))
                if tokens is not None:
                    mimi.decode(tokens[:, 1:].clamp(0, mimi.cardinality - 1)).cpu()
                times_ms.append(1000 * (time.perf_counter() - started))
        p50 = float(np.median(times_ms[5:]))
        print(f"Kyutai's API, {name}: {p50:.2f} ms", flush=True)
        figures.note(f"known_api_{name}_p50_ms", p50)


def _parts_of(step: FrameStep, rows: int) -> dict[str, Callable[[], object]]:
    """The parts of a step, each to be called by itself."""
    generator, model, mimi, state = step.generator, step.generator.lm_model, step.mimi, step.state
    device, length = step.device, state.lm.temporal.capacity
    pcm = torch.randn(rows, 1, mimi.frame_size, device=device) * 0.1
    mask = torch.ones(rows, dtype=torch.bool, device=device)
    codes = torch.zeros(rows, mimi.num_codebooks, 1, dtype=torch.long, device=device)
    tokens = torch.zeros(rows, model.num_codebooks, 1, dtype=torch.long, device=device)
    hidden = torch.randn(rows, 1, step.dim, device=device, dtype=model.dtype)
    text_logits = torch.randn(rows, model.text_card, device=device, dtype=model.dtype)
    given = StepInput(user=codes[:, :, 0], length=length)
    sampling = step.sampling.first_rows(rows)

    def choose() -> object:
        draws = sampling.draws(state.lm.ring.offset, model.text_card, model.card, 1 + model.dep_q)
        return generator._generate(hidden, None, text_logits, given, Chooser(draws, None))

    return {
        "hear": lambda: mimi.quantizer.encode(mimi.encode_latent(pcm, state.mimi, mask)),
        "temporal": lambda: model.temporal(tokens, state.lm.temporal, mask, length=length),
        "choose": choose,
        "speak": lambda: mimi.decode_codes(codes, state.mimi, mask),
    }


def _time(call: Callable[[], object], options: argparse.Namespace) -> float:
    """Median ms; on CUDA of a captured graph by the device's own clock, else by the wall."""
    times_ms: list[float] = []
    with torch.inference_mode():
        if torch.device(options.device).type != "cuda":
            for _ in range(3):
                started = time.perf_counter()
                call()
                times_ms.append(1000 * (time.perf_counter() - started))
            return float(np.median(times_ms))
        device = torch.device("cuda", torch.cuda.current_device())

        def run() -> None:
            call()

        replay = CudaDevice(device).capture(run)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(options.repeats):
            begin.record()
            replay()
            end.record()
            end.synchronize()
            times_ms.append(begin.elapsed_time(end))
    return float(np.median(times_ms))


def _profile(step: FrameStep, figures: Figures) -> None:
    """The kernels of a step, slowest first, where the driver lets a profiler look."""
    from torch.profiler import ProfilerActivity, profile

    silence = [RowInput(row=0, pcm=np.zeros(FRAME_SAMPLES, np.float32))]
    step.measure([1], 3)
    step.fill_row(0)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            step.run(silence)
    kernels = sorted(found.key_averages(), key=lambda one: -one.self_device_time_total)
    rows = [[one.key[:120], one.count / 5, round(one.self_device_time_total / 5, 1)] for one in kernels]
    launches, whole = sum(row[1] for row in rows), sum(row[2] for row in rows)
    print(f"{launches:.0f} launches, {whole:.0f} us a step; the slowest:")
    for name, count, microseconds in rows[:40]:
        print(f"{microseconds:8.1f} us {count:6.1f} x {name}", flush=True)
    figures.note("kernels", rows[:100])


def codec(options: argparse.Namespace, figures: Figures) -> None:
    """The built-in model on the device beside the CPU: what it answers, and shares of equal codes."""
    questions = [read_audio(question.path) for question in sample_questions()[: min(4, options.most)]]
    answers: dict[str, list[str]] = {}
    for device, dtype in (("cpu", "float32"), (options.device, "float32"), (options.device, "bfloat16")):
        name = f"{device} {dtype}"
        pack = None if device == "cpu" and dtype != "float32" else "auto"
        with Engine.load("tiny", shared=False, device=device, dtype=dtype, pack=pack) as engine:
            answers[name] = [_answer(engine, question) for question in questions]
        same = sum(one == other for one, other in zip(answers[name], answers["cpu float32"], strict=True))
        print(f"{name}: {same} of {len(questions)} answers as on the CPU: {answers[name]}", flush=True)
        figures.note("answers", answers)
    audio = np.concatenate(questions)
    whole = torch.from_numpy(audio[: len(audio) // FRAME_SAMPLES * FRAME_SAMPLES])[None, None]
    with torch.inference_mode():
        wanted = load_checkpoint("tiny").mimi.encode(whole)
        for pack, tf32 in (("auto", False), (None, False), (None, True)):
            mimi = load_checkpoint("tiny", device=options.device, pack=pack).mimi
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
                got = mimi.encode(whole.to(options.device)).cpu()
            name = "packed" if pack else f"not packed, {'TF32' if tf32 else 'float32'}"
            print(f"{name}: {(got == wanted).float().mean():.2%} of codes as on the CPU", flush=True)
            figures.note(f"codes {name}", float((got == wanted).float().mean()))


def _answer(engine: Engine, question: Samples) -> str:
    text: list[str] = []
    config = SessionConfig(sampling=SamplingConfig(greedy=True), live=False)
    session = engine.open_session(config, on_text=lambda piece: text.append(piece.text))
    session.push(question)
    session.finish()
    session.wait()
    return "".join(text).strip()


def attend(options: argparse.Namespace, figures: Figures) -> None:
    """The attention kernel over full caches: GB/s, in other shapes than the one in use as well."""
    from moshi_agent.nn import cache_attention_kernels as kernels

    layers, heads, head_dim, capacity = 4, 32, 128, options.context
    at_once = cache_attention.programs_at_once(torch.device(options.device, 0))
    used = (kernels.BLOCK_NUMBERS, kernels.WARPS, kernels.STAGES, at_once)
    shapes = [used, *itertools.product((4096, 8192), (4, 8), (1, 3), (at_once // 2, 2 * at_once))]
    for dtype in (torch.int8, torch.bfloat16):
        for rows in [rows for rows in (1, 80) if rows <= options.most]:
            state = torch.ones(rows, layers, 2, heads, capacity, head_dim, device=options.device, dtype=dtype)
            scales = torch.ones(state.shape[:-1], device=options.device, dtype=SCALE_DTYPE)
            caches = [
                LayerCache(state[:, i], scales[:, i] if dtype == torch.int8 else None) for i in range(layers)
            ]
            queries = torch.randn(rows, heads, head_dim, device=options.device).to(torch.bfloat16)
            filled = torch.full((rows,), capacity, device=options.device, dtype=torch.int32)

            def call(caches=caches, queries=queries, filled=filled) -> None:
                for cache in caches:
                    cache_attention.attend(queries, cache, filled, capacity)

            found: dict[str, float] = {}
            for block, warps, stages, programs in dict.fromkeys(shapes):
                names = {"BLOCK_NUMBERS": block, "WARPS": warps, "STAGES": stages}
                count = {"programs_at_once": lambda device, count=programs: count}
                try:
                    with (
                        mock.patch.multiple(kernels, **names),
                        mock.patch.multiple(cache_attention, **count),
                    ):
                        ms = _time(call, options)
                except Exception as error:  # too much shared memory, say: the others are still of interest
                    print(f"{names}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
                    continue
                found[f"{block} {warps} {stages} {programs}"] = state.nbytes / ms / 1e6
            if not found:
                raise SystemExit("the kernel runs in no shape here")
            print(
                f"{dtype}, {rows} rows, block, warps, stages, programs: GB/s; the first is in use", flush=True
            )
            print(", ".join(f"{name}: {rate:.0f}" for name, rate in found.items()), flush=True)
            figures.note(f"{dtype} {rows}", found)
            del state, scales, caches


def _library_versions() -> dict[str, object]:
    found: dict[str, object] = {"cuda": torch.version.cuda}
    if torch.cuda.is_available():
        found["cudnn"] = torch.backends.cudnn.version()
        free, total = torch.cuda.mem_get_info()
        found["memory_gb"] = [free / 1e9, total / 1e9]
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    return found


def main() -> None:
    parts = {"one": one, "int8": steps, "float": steps, "codec": codec, "attend": attend}
    parts |= dict.fromkeys(ROUNDINGS, steps)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--context", type=int, default=3000)
    parser.add_argument("--most", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts[options.part](options, Figures(options.json))


if __name__ == "__main__":
    main()
