"""The settings of a codec's training: the shipped example is one, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moshi_agent import ConfigError
from moshi_agent.training.mimi.config import MimiTraining
from moshi_agent.training.runs.settings import build_settings, read_settings

EXAMPLE = Path(__file__).parents[3] / "examples" / "train_mimi.toml"
LEAST = {"folder": "run", "from": "tiny", "data": {"train": "speech"}}


def test_the_example_is_read() -> None:
    config = read_settings(EXAMPLE, MimiTraining)
    assert config.start == "tiny" and config.data.train == Path("speech")
    assert config.codebooks.decay == 0.99


def test_little_has_to_be_said() -> None:
    """What is not said is Audiocraft's balance of losses and the paper's share of unquantized pieces."""
    config = build_settings(LEAST, MimiTraining)
    assert config.losses.balanced == {"adversarial": 4, "feature": 4, "spectral": 2, "waveform": 0.1}
    assert config.codebooks.unquantized == 0.5
    assert build_settings({**LEAST, "codebooks": {"decay": 0.9}}, MimiTraining).codebooks.unquantized == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "a.json"}, "one of `from`"),
        ({"from": "tiny", "steps": 0}, "steps=0; accepted: 1 or more"),
        ({"parts": "encoder"}, "parts='encoder'; accepted: 'all', 'decoder'"),
        ({"losses": {"spectral": -1}}, r"\[losses\] spectral=-1"),
        (
            {"losses": {"adversarial": 0, "feature": 0, "spectral": 0, "waveform": 0}},
            "one of adversarial, feature, spectral, waveform",
        ),
        ({"losses": {"mel": 1}}, "losses: unknown key 'mel'"),
        ({"parts": "decoder", "losses": {"distillation": 1}}, "distillation trains codebooks"),
        (
            {"discriminator_head_start": 5, "losses": {"adversarial": 0, "feature": 0}},
            "no loss in use needs the discriminator",
        ),
        ({"teacher": {"suffix": ".pt"}}, r"suffix='\.pt'; accepted: \.safetensors, \.npy"),
        ({"evaluation": {"every": 0}}, r"\[evaluation\] every=0"),
        ({"precision": "float16"}, "precision='float16'"),
        ({"clip": 0}, "clip=0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_settings({**LEAST, **changes}, MimiTraining)


def test_data_have_to_be_named() -> None:
    with pytest.raises(ConfigError, match="data lacks train"):
        build_settings({**LEAST, "data": {}}, MimiTraining)
