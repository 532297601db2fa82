"""Stereo conversations in the layout of moshi-finetune, made of harmonic tones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile as sf

RATE_HZ = 24_000


def tone(seconds: float, rate_hz: int, seed: int) -> np.ndarray:
    """A tone that changes its pitch every 80 ms, [N]."""
    rng = np.random.default_rng(seed)
    pitch_hz = np.repeat(rng.uniform(90, 400, size=int(seconds / 0.08) + 1), round(rate_hz * 0.08))
    return 0.3 * np.sin(2 * np.pi * np.cumsum(pitch_hz[: round(seconds * rate_hz)]) / rate_hz)


def write_conversation(
    path: Path, seconds: float = 2.0, rate_hz: int = RATE_HZ, channels: int = 2, words: list | None = None
) -> Path:
    """An audio file, and its words beside it: by default one each half second, of Moshi and of the user."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.stem.encode())
    sides = [tone(seconds, rate_hz, seed + side) for side in range(channels)]
    sf.write(path, np.stack(sides, 1), rate_hz)
    if words is None:
        starts = np.arange(0.1, seconds - 0.4, 0.5)
        words = [["hello", [float(t), float(t) + 0.3], "SPEAKER_MAIN"] for t in starts]
        words += [["cat", [float(t) + 0.1, float(t) + 0.2], "USER"] for t in starts]
    path.with_suffix(".json").write_text(json.dumps({"alignments": words}))
    return path


def write_listing(folder: Path, paths: list[Path], seconds: float = 2.0) -> Path:
    """The manifest of these files."""
    lines = [json.dumps({"path": str(path.relative_to(folder)), "duration": seconds}) for path in paths]
    manifest = folder / "data.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
