"""The public names of `moshi_agent.hf`, so that none comes or goes unnoticed."""

from __future__ import annotations

import subprocess
import sys

import moshi_agent.hf

NAMES = [
    "AutoFeatureExtractor",
    "AutoTokenizer",
    "BatchFeature",
    "EncodecFeatureExtractor",
    "GenerationConfig",
    "MimiConfig",
    "MimiFeatureExtractor",
    "MimiModel",
    "MoshiCache",
    "MoshiConfig",
    "MoshiDepthConfig",
    "MoshiDepthDecoder",
    "MoshiForCausalLM",
    "MoshiForConditionalGeneration",
    "MoshiModel",
    "MoshiTokenizer",
    "infer_device",
]


def test_the_public_names_are_these() -> None:
    assert sorted(moshi_agent.hf.__all__) == NAMES
    assert all(getattr(moshi_agent.hf, name) is not None for name in NAMES)


def test_transformers_is_not_needed() -> None:
    program = "import moshi_agent.hf, sys; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
