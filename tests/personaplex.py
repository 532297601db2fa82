"""A PersonaPlex of a fraction of the size: random weights, in the files and with voices as theirs has."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import torch

from moshi_agent.checkpoint import save_kyutai
from moshi_agent.config import DepthConfig
from moshi_agent.models.lm import LMModel
from tests.small_models import small_lm_config, small_mimi
from tests.text_tokenizers import byte_tokenizer

CONTEXT = 160
STREAMS = 5  # text, two codebooks of each speaker


def whole_lm(context: int = CONTEXT) -> LMModel:
    """With depth steps for the user's codebooks, as in the file of theirs."""
    config = small_lm_config(context)
    assert config.depth is not None
    depth = DepthConfig(transformer=replace(config.depth.transformer, weights_per_step=4), multi_linear=True)
    torch.manual_seed(1)
    model = LMModel(replace(config, dep_q=4, depth=depth, text_card=300))
    model.init_weights()
    return model.eval()


def voice_file(seed: int, steps: int = 9) -> bytes:
    """As their package saves one."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, 32, (1, STREAMS, 4), generator=generator)
    buffer = io.BytesIO()
    torch.save(
        {"embeddings": torch.randn(steps, 1, 1, 16, generator=generator), "cache": tokens},
        buffer,
    )
    return buffer.getvalue()


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    """A `.tgz` of these files."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_personaplex(folder: Path) -> Path:
    """Writes the checkpoint, with the voices NATF0 and NATM1, and returns its folder."""
    tokenizer = folder.parent / "tokenizer_spm_32k_3.model"
    tokenizer.write_bytes(byte_tokenizer().serialized_model_proto())
    save_kyutai(folder, small_mimi(), whole_lm(), tokenizer, dtype=torch.float32, model_type="personaplex")
    write_archive(
        folder / "voices.tgz", {"voices/NATF0.pt": voice_file(0), "voices/NATM1.pt": voice_file(1, steps=12)}
    )
    return folder
