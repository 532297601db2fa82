"""What the tests of the codec's training share: recordings of tones, and settings for a small codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch

from moshi_agent.checkpoint.codec import save_codec
from moshi_agent.checkpoint.kyutai.mimi_config import write_mimi_config
from moshi_agent.checkpoint.write import write_json
from moshi_agent.training.mimi.config import MimiTraining
from moshi_agent.training.runs.settings import build_settings
from tests.small_models import small_mimi, small_mimi_config
from tests.training.tiny.training_material import tones

RATE_HZ = 24_000


def write_recordings(folder: Path, count: int = 4, seconds: float = 1.5, rate_hz: int = RATE_HZ) -> Path:
    """Wav files of harmonic tones, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        samples = tones(np.random.default_rng(index), 1, int(seconds * RATE_HZ)).clean[0]
        sf.write(folder / f"tone_{index}.wav", samples[:: RATE_HZ // rate_hz], rate_hz)
    return folder


def write_features(folder: Path, rate_hz: float = 50.0) -> None:
    """Beside each recording, features [N, 2] that point one way where there is sound, and back elsewhere."""
    for path in sorted(folder.glob("*.wav")):
        samples, _ = sf.read(path, dtype="float32")
        size = int(RATE_HZ / rate_hz)
        level = np.abs(samples[: len(samples) // size * size].reshape(-1, size)).mean(1)
        loud = (level > 0.01).astype(np.float32)
        features = np.stack([2 * loud - 1, np.full_like(loud, 0.1)], axis=1)
        np.save(path.with_suffix(".npy"), features)


def settings(place: Path, **changes: Any) -> MimiTraining:
    """Of a small codec from scratch, on the recordings in `place / "data"`; None takes one away."""
    config = place / "mimi_config.json"
    write_json(config, write_mimi_config(small_mimi_config()))
    values: dict[str, Any] = {
        "folder": str(place / "run"),
        "codec": str(config),
        "steps": 4,
        "batch": 2,
        "frames": 4,
        "warm_up": 2,
        "data": {"train": str(place / "data"), "valid_share": 0.25},
        "discriminator": {"filters": 4, "windows": [512, 128]},
        "spectral": {"windows": [256, 1024], "mel_bands": 16},
        "evaluation": {"pieces": 2, "samples": 1},
    }
    values = {key: value for key, value in (values | changes).items() if value is not None}
    return build_settings(values, MimiTraining)


def trained_codec(folder: Path) -> Path:
    """A folder with a codec whose codes vary, as `save_codec` writes it."""
    codec = small_mimi()
    for module in (codec.quantizer.rvq_first, codec.quantizer.rvq_rest):
        for index in range(module.n_q):
            module.codebook(index).initialized.fill_(1)
    save_codec(folder, codec, torch.float32)
    return folder
