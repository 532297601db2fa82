"""Speed beside Kyutai's `moshi` package: the same weights, the same input, in turn, in one process.

    pip install "moshi==0.2.13" -e .
    python tests/benchmarks/against_moshi.py [--threads 1] [--rounds 7] [--only mimi|offline|lm]

Prints a line for the models as they are loaded and for each way of packing them: the median time of both,
and the median over the rounds of their ratio, which is what holds from one machine to another. Agreement is
over the same input.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import moshi
import torch
from moshi.models import LMGen as PeerLMGen
from moshi.models import loaders as peer_loaders
from safetensors.torch import save_file

import moshi_agent
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


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"moshi {moshi.__version__}, moshi_agent {moshi_agent.__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, {options.threads} thread(s), "
        f"{options.rounds} rounds of {FRAMES_PER_ROUND} frames"
    )
    benchmarks = {"mimi": mimi_frames, "offline": mimi_offline, "lm": lm_steps}
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for name, benchmark in benchmarks.items():
            if options.only in (None, name):
                benchmark(Path(folder), options.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("mimi", "offline", "lm"))
    return parser.parse_args()


def mimi_frames(folder: Path, rounds: int) -> None:
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
            times = _in_turn(rounds, _each_frame(peer, frames), _each_frame(ours, frames))
        _report("mimi frame, encode + decode", how, times, f"codes equal {agreement:.1%}")


def mimi_offline(folder: Path, rounds: int) -> None:
    """Ten seconds at once."""
    peer, path = _peer_mimi(folder)
    audio = 0.1 * torch.randn(1, 1, 240_000)
    plain = loaders.get_mimi(path)
    packed = loaders.get_mimi(path)
    packed.pack("float32")
    for name, ours in ((AS_LOADED, plain), ("float32", packed)):
        times = _in_turn(
            rounds, lambda: peer.decode(peer.encode(audio)), lambda ours=ours: ours.decode(ours.encode(audio))
        )
        _report("mimi 10 s, encode + decode", name, times, "")


def lm_steps(folder: Path, rounds: int) -> None:
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
            times = _in_turn(rounds, _each_step(peer_gen, codes), _each_step(gen, codes))
        _report("small lm step", how, times, f"greedy tokens equal {agreement:.1%}")


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
def _stream(model: torch.nn.Module | LMGen) -> Iterator[None]:
    with model.streaming(1):
        yield


def _in_turn(
    rounds: int, peer: Callable[[], object], ours: Callable[[], object]
) -> list[tuple[float, float]]:
    """Seconds of each round, the peer's and ours, after one round that does not count."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        peer()
        between = time.perf_counter()
        ours()
        times.append((between - started, time.perf_counter() - between))
    return times[1:]


def _report(what: str, how: str, times: list[tuple[float, float]], note: str) -> None:
    per = FRAMES_PER_ROUND if "10 s" not in what else 1
    peer_ms, ours_ms = (1000 / per * statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(peer / ours for peer, ours in times)
    print(f"{what:28} {how:9} moshi {peer_ms:8.1f} ms  ours {ours_ms:8.1f} ms  {ratio:5.2f} x  {note}")


if __name__ == "__main__":
    main()
