"""Speed beside Kyutai's `moshi` package: the same weights, the same input, in turn, in one process.

    pip install "moshi==0.2.13" -e .
    python tests/benchmarks/against_moshi.py [--threads 1] [--rounds 7] [--only frame|mimi|lm] [--table]

Prints a line for the models as they are loaded and for each way of packing them: the median time of both,
and the median over the rounds of their ratio, which is what holds from one machine to another. Agreement is
over the same input. With one thread the time is the processor's, so that other work counts less.

`--table` keeps the ratios in `tests/benchmarks/ratios.md`, those of each kind of processor by themselves.
What has become worse by more than a fifth is said there, and at the end, and the command fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import moshi
import torch
from moshi.models import LMGen as PeerLMGen
from moshi.models import loaders as peer_loaders
from safetensors.torch import save_file

import moshi_agent
from moshi_agent.audio.files import read_audio
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.step.frame_step import FrameStep, RowInput
from moshi_agent.models import LMGen, loaders
from moshi_agent.nn.packing import PACK_FORMATS

# A small language model: 8 temporal layers of 512, 6 depth layers of 256 with weights of their own.
SMALL_LM = {
    **peer_loaders._lm_kwargs,
    "dim": 512,
    "num_heads": 8,
    "num_layers": 8,
    "text_card": 8000,
    "context": 250,
    "depformer_dim": 256,
    "depformer_dim_feedforward": 1056,
    "depformer_num_heads": 4,
}
OURS_LM = {key: value for key, value in SMALL_LM.items() if key != "depformer_context"}
AS_LOADED = "as loaded"
FRAMES_PER_ROUND = 10
FRAME_ROWS = (1, 8, 16)
OFFLINE_S = 60
TABLE = Path(__file__).with_name("ratios.md")
WORSE = 0.8  # of the ratio that was kept


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"moshi {moshi.__version__}, moshi_agent {moshi_agent.__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, {options.threads} thread(s), "
        f"{options.rounds} rounds of {FRAMES_PER_ROUND} frames"
    )
    benchmarks = {"frame": tiny_frames, "mimi": mimi_frames, "offline": mimi_offline, "lm": lm_steps}
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    report = Report(clock, TABLE if options.table else None)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for name, benchmark in benchmarks.items():
            if options.only in (None, name):
                benchmark(Path(folder), options.rounds, report)
    if report.worse:
        raise SystemExit(f"worse by more than a fifth: {'; '.join(report.worse)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("frame", "mimi", "offline", "lm"))
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


class Report:
    """Prints what was measured, and keeps the ratios."""

    def __init__(self, clock: Callable[[], float], table: Path | None) -> None:
        self.clock = clock  # seconds
        self.worse: list[str] = []  # by more than a fifth than in the table
        self._table = table
        self._others = _ratios_in(table.read_text(encoding="utf-8")) if table and table.exists() else {}
        self._before = self._others.pop(_processor(), {})
        self._ratios: dict[str, float] = {}

    def in_turn(
        self, rounds: int, peer: Callable[[], object], ours: Callable[[], object]
    ) -> list[tuple[float, float]]:
        """Seconds of each round, the peer's and ours, after one round that does not count."""
        times: list[tuple[float, float]] = []
        for _ in range(rounds + 1):
            started = self.clock()
            peer()
            between = self.clock()
            ours()
            times.append((between - started, self.clock() - between))
        return times[1:]

    def add(self, what: str, how: str, times: list[tuple[float, float]], note: str) -> None:
        """Prints a line."""
        per = 1 if f"{OFFLINE_S} s" in what else FRAMES_PER_ROUND
        peer_ms, ours_ms = (1000 / per * statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(peer / ours for peer, ours in times)
        print(
            f"{what:28} {how:9} moshi {peer_ms:8.1f} ms  ours {ours_ms:8.1f} ms  {ratio:5.2f} x  {note}",
            flush=True,
        )
        name = f"{what}, {how}"
        self._ratios[name] = ratio
        if name in self._before and ratio < WORSE * self._before[name]:
            self.worse.append(name)
        if self._table:
            self._keep(self._table)

    def _keep(self, table: Path) -> None:
        """Writes the ratios over those that the table had, line by line: a run may be ended half-way."""
        lines = [
            "# Times faster than Kyutai's package",
            "",
            f"Printed by `{Path(__file__).name} --table`.",
            "",
        ]
        for processor, ratios in {**self._others, _processor(): self._before | self._ratios}.items():
            lines += [f"## {processor}", "", "| what | times faster | |", "|---|---|---|"]
            for name, ratio in ratios.items():
                is_worse = processor == _processor() and name in self.worse
                was = f"WORSE, was {self._before[name]:.2f}" if is_worse else ""
                lines.append(f"| {name} | {ratio:.2f} | {was} |")
            lines.append("")
        table.write_text("\n".join(lines), encoding="utf-8")


def _processor() -> str:
    """The kind of processor: one has other instructions than another, and other ratios."""
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _ratios_in(table: str) -> dict[str, dict[str, float]]:
    """The ratios of each kind of processor."""
    ratios: dict[str, dict[str, float]] = {}
    for section in table.split("\n## ")[1:]:
        processor, *lines = section.splitlines()
        cells = [line.split("|") for line in lines if line.startswith("|")][2:]
        ratios[processor] = {name.strip(): float(ratio) for _, name, ratio, *_ in cells}
    return ratios


def tiny_frames(folder: Path, rounds: int, report: Report) -> None:
    """A whole frame of `tiny` as its callers hear it: encode, sample, decode."""
    assets = Path(moshi_agent.__file__).parent / "assets"
    tiny, question = assets / "tiny", sorted((assets / "questions").glob("*.flac"))[0]
    settings = json.loads((tiny / "config.json").read_text())["lm_gen_config"]
    kept = peer_loaders.CheckpointInfo.from_hf_repo(
        "tiny",
        **{
            name: tiny / f"{file}.safetensors"
            for name, file in (("moshi_weights", "model"), ("mimi_weights", "mimi"))
        },
        tokenizer=tiny / "tokenizer_spm.model",
        config_path=tiny / "config.json",
        mimi_config_path=tiny / "mimi_config.json",
    )
    mimi, lm = kept.get_mimi(), kept.get_moshi(dtype=torch.float32)
    speech = torch.from_numpy(read_audio(question, mimi.sample_rate))
    speech = torch.cat([speech.flatten(), torch.zeros(3 * mimi.sample_rate)])
    heard = speech[: len(speech) // mimi.frame_size * mimi.frame_size].view(-1, 1, 1, mimi.frame_size)
    wanted = _peer_text(mimi, PeerLMGen(lm, use_sampling=False), heard)
    for rows in FRAME_ROWS:
        frames = 0.1 * torch.randn(FRAMES_PER_ROUND, rows, 1, mimi.frame_size)
        generator = PeerLMGen(lm, **settings)
        with _stream(mimi, rows), _stream(generator, rows):
            peer = _each_frame_answered(mimi, generator, frames)
            for _ in range(-(-lm.context // FRAMES_PER_ROUND) + 1):
                peer()  # until its cache is full
            for how in PACK_FORMATS:
                step = FrameStep(load_checkpoint("tiny", pack=how), rows)
                agreement = (_our_text(step, heard) == wanted).float().mean()
                for row in range(rows):
                    step.set_sampling(row, SamplingConfig(**settings, seed=row))
                    step.fill_row(row)
                inputs = [
                    [RowInput(row=row, pcm=one[0].numpy()) for row, one in enumerate(f)] for f in frames
                ]
                times = report.in_turn(rounds, peer, lambda: [step.run(one) for one in inputs])  # noqa: B023
                report.add(
                    f"tiny's frame, {rows} rows", how, times, f"text of an answer equal {agreement:.1%}"
                )


def _each_frame_answered(
    mimi: torch.nn.Module, generator: PeerLMGen, frames: torch.Tensor
) -> Callable[[], None]:
    def run() -> None:
        for frame in frames:
            tokens = generator.step(mimi.encode(frame))
            if tokens is not None:
                mimi.decode(tokens[:, 1:])

    return run


def _peer_text(mimi: torch.nn.Module, generator: PeerLMGen, heard: torch.Tensor) -> torch.Tensor:
    """The text tokens of the greedy answer, [steps]."""
    with _stream(mimi), _stream(generator):
        tokens = [generator.step(mimi.encode(frame)) for frame in heard]
    return torch.tensor([int(one[0, 0, 0]) for one in tokens if one is not None])


def _our_text(step: FrameStep, heard: torch.Tensor) -> torch.Tensor:
    step.begin_row(0, SamplingConfig(greedy=True))
    outputs = [step.run([RowInput(row=0, pcm=frame[0, 0].numpy())])[0] for frame in heard]
    return torch.tensor([one.text for one in outputs if one.audio is not None])


def mimi_frames(folder: Path, rounds: int, report: Report) -> None:
    """One frame of 80 ms through encoder and decoder, streaming, batch 1."""
    peer, path = _peer_mimi(folder)
    frames = 0.1 * torch.randn(40, 1, 1, peer.frame_size)
    with _stream(peer):
        wanted = torch.cat([peer.encode(frame) for frame in frames])
    for how in (AS_LOADED, *PACK_FORMATS):
        ours = loaders.get_mimi(path)
        if how in PACK_FORMATS:
            ours.pack(how)
        with _stream(ours):
            agreement = (torch.cat([ours.encode(frame) for frame in frames]) == wanted).float().mean()
        with _stream(peer), _stream(ours):
            times = report.in_turn(rounds, _each_frame(peer, frames), _each_frame(ours, frames))
        report.add("mimi frame, encode + decode", how, times, f"codes equal {agreement:.1%}")


def mimi_offline(folder: Path, rounds: int, report: Report) -> None:
    """A minute at once, there and back."""
    peer, path = _peer_mimi(folder)
    audio = 0.1 * torch.randn(1, 1, OFFLINE_S * peer.sample_rate)
    codes = peer.encode(audio)
    for how in (AS_LOADED, "float32"):
        ours = loaders.get_mimi(path)
        if how != AS_LOADED:
            ours.pack(how)
        for what, run in (
            ("encode", lambda mimi: mimi.encode(audio)),
            ("decode", lambda mimi: mimi.decode(codes)),
        ):
            times = report.in_turn(min(rounds, 3), partial(run, peer), partial(run, ours))
            faster = OFFLINE_S / statistics.median(ours_s for _, ours_s in times)
            report.add(f"mimi {OFFLINE_S} s, {what}", how, times, f"{faster:.1f} times real time")


def lm_steps(folder: Path, rounds: int, report: Report) -> None:
    """One greedy step of a small language model, batch 1."""
    peer = peer_loaders.get_moshi_lm(None, SMALL_LM, dtype=torch.float32)
    path = folder / "lm.safetensors"
    save_file(peer.state_dict(), path)
    codes = torch.randint(0, 2048, (60, 1, 8, 1))
    wanted = _greedy(PeerLMGen(peer, use_sampling=False), codes)
    for how in (AS_LOADED, *PACK_FORMATS):
        model = loaders.get_moshi_lm(path, OURS_LM, dtype=torch.float32)
        if how in PACK_FORMATS:
            model.pack(how)
        agreement = (_greedy(LMGen(model, use_sampling=False), codes) == wanted).float().mean()
        peer_gen, gen = PeerLMGen(peer, use_sampling=False), LMGen(model, use_sampling=False)
        with _stream(peer_gen), _stream(gen):
            times = report.in_turn(rounds, _each_step(peer_gen, codes), _each_step(gen, codes))
        report.add("small lm step", how, times, f"greedy tokens equal {agreement:.1%}")


def _peer_mimi(folder: Path) -> tuple[torch.nn.Module, Path]:
    """The peer's full-size codec with random weights and codebooks, and a file of them."""
    peer = peer_loaders.get_mimi(None)
    peer.set_num_codebooks(8)
    latents = peer.encode_to_latent(0.1 * torch.randn(1, 1, 50 * peer.frame_size), quantize=False)
    for quantizer in (peer.quantizer.rvq_first, peer.quantizer.rvq_rest):
        # Centroids as wide as what they quantize, or every frame would have the same codes.
        projected = quantizer.input_proj(latents)
        mean, std = projected.mean(-1)[0], projected.std(-1)[0]
        for layer in quantizer.vq.layers:
            layer._codebook.embedding_sum.normal_().mul_(std).add_(mean)
            layer._codebook._initialized.fill_(1)
            mean, std = torch.zeros_like(mean), 0.7 * std
    path = folder / "mimi.safetensors"
    save_file(peer.state_dict(), path)
    return peer, path


def _each_frame(mimi: torch.nn.Module, frames: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        for frame in frames[:FRAMES_PER_ROUND]:
            mimi.decode(mimi.encode(frame))

    return run


def _each_step(generator: LMGen | PeerLMGen, codes: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        for frame in codes[:FRAMES_PER_ROUND]:
            generator.step(frame)

    return run


def _greedy(generator: LMGen | PeerLMGen, codes: torch.Tensor) -> torch.Tensor:
    with _stream(generator):
        outs = [generator.step(frame) for frame in codes]
    return torch.cat([out for out in outs if out is not None])


@contextmanager
def _stream(model: torch.nn.Module | LMGen, rows: int = 1) -> Iterator[None]:
    with model.streaming(rows):
        yield


if __name__ == "__main__":
    main()
