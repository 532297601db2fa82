"""Sends ten seconds of speech through Mimi, frame by frame and at once, and writes down what comes out.

    python scripts/mimi_streaming_test.py [--weights FILE] [--hf-repo REPO] [--device cpu] [--profile]

Reads `bria.mp3` where it is in the working folder, and else a question that comes with the package.
Writes streaming_out.wav, roundtrip_out.wav and, with --profile, trace.json. Kyutai's script of this name, by
its options.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.profiler import profile

from moshi_agent.audio.files import read_audio, write_audio
from moshi_agent.checkpoint.codec import load_codec
from moshi_agent.models import MimiModel, loaders
from moshi_agent.questions import sample_questions

LONGEST_S = 10.0


def main() -> None:
    options = _options()
    mimi = _load(options.weights, options.hf_repo, options.device)
    audio = torch.from_numpy(read_audio(_speech())).to(options.device)
    audio = audio[: int(LONGEST_S * mimi.sample_rate)]
    frames = audio[: len(audio) - len(audio) % mimi.frame_size].view(1, 1, -1).split(mimi.frame_size, dim=2)
    with torch.no_grad():
        with profile() if options.profile else nullcontext() as profiler:
            codes, streamed = _stream(mimi, frames)
        if profiler is not None:
            profiler.export_chrome_trace("trace.json")
        at_once = mimi.decode(codes)
    for name, sound in (("streaming_out.wav", streamed), ("roundtrip_out.wav", at_once)):
        write_audio(name, sound[0, 0].cpu().numpy())
        print(f"{name}: {sound.shape[-1] / mimi.sample_rate:.1f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, help="A file of Mimi's weights; else the repository's.")
    parser.add_argument("--hf-repo", default=loaders.DEFAULT_REPO, help="A repository, a folder, or tiny.")
    parser.add_argument("--device", default="cuda" if torch.cuda.device_count() else "cpu")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def _load(weights: Path | None, hf_repo: str, device: str) -> MimiModel:
    if weights is not None:
        return loaders.get_mimi(weights, device=device)
    mimi = load_codec(hf_repo, device)
    mimi.set_num_codebooks(min(8, mimi.total_codebooks))
    return mimi


def _speech() -> Path:
    bria = Path("bria.mp3")
    return bria if bria.is_file() else sample_questions()[0].path


def _stream(mimi: MimiModel, frames: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames [1, 1, 1920] -> codes [1, K, T] and audio [1, 1, T * 1920]; prints how long both took."""
    with mimi.streaming(1):
        started = time.perf_counter()
        codes = [mimi.encode(frame) for frame in frames]
        encoded = time.perf_counter()
        audio = [mimi.decode(frame) for frame in codes]
        decoded = time.perf_counter()
    count = len(frames)
    print(f"{count} frames: encoding {1000 * (encoded - started) / count:.1f} ms a frame, ", end="")
    print(f"decoding {1000 * (decoded - encoded) / count:.1f} ms a frame")
    return torch.cat(codes, dim=-1), torch.cat(audio, dim=-1)


if __name__ == "__main__":
    main()
