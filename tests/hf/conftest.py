"""The small golden checkpoints, opened as `moshi_agent.hf` opens them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from moshi_agent.hf import MimiModel, MoshiForCausalLM, MoshiForConditionalGeneration

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def hf_moshi() -> Path:
    """A folder in the format of Transformers: 4 codebooks of 32, frames of 96 samples, 48 text tokens."""
    return GOLDEN / "hf_moshi" / "checkpoint"


@pytest.fixture
def hf_mimi() -> Path:
    """The same of a codec alone, with frames of 1920 samples."""
    return GOLDEN / "hf_mimi" / "checkpoint"


@pytest.fixture
def moshi(hf_moshi: Path) -> MoshiForConditionalGeneration:
    return MoshiForConditionalGeneration.from_pretrained(hf_moshi)


@pytest.fixture
def decoder(hf_moshi: Path) -> MoshiForCausalLM:
    return MoshiForCausalLM.from_pretrained(hf_moshi)


@pytest.fixture
def codec(hf_mimi: Path) -> MimiModel:
    return MimiModel.from_pretrained(hf_mimi)


@pytest.fixture
def streams() -> dict[str, Tensor]:
    """Two rows of nine frames."""
    generator = torch.Generator().manual_seed(3)
    return {
        "input_ids": torch.randint(48, (2, 9), generator=generator),
        "moshi_audio_codes": torch.randint(32, (2, 4, 9), generator=generator),
        "user_audio_codes": torch.randint(32, (2, 4, 9), generator=generator),
    }
