"""The feature extractor: shapes, padding, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moshi_agent.errors import AudioError, ConfigError
from moshi_agent.hf import AutoFeatureExtractor, EncodecFeatureExtractor

SOUND = np.linspace(-1, 1, 100)
RATE = {"sampling_rate": 24_000, "return_tensors": "pt"}


@pytest.mark.parametrize(
    "raw", [SOUND, SOUND.tolist(), torch.from_numpy(SOUND), [SOUND]], ids=["array", "list", "tensor", "batch"]
)
def test_every_kind_of_sound_makes_the_same_features(raw: Any) -> None:
    features = EncodecFeatureExtractor()(raw_audio=raw, **RATE)
    assert features.input_values.shape == (1, 1, 100)
    assert features["input_values"].dtype == torch.float32
    assert torch.equal(features.input_values[0, 0], torch.from_numpy(SOUND).float())
    assert features.padding_mask.tolist() == [[1] * 100]


def test_a_batch_is_padded_on_the_right_and_masked() -> None:
    features = EncodecFeatureExtractor()(raw_audio=[SOUND, SOUND[:30]], **RATE)
    assert features.input_values.shape == (2, 1, 100)
    assert features.padding_mask.sum(1).tolist() == [100, 30]
    assert not features.input_values[1, 0, 30:].any()


def test_two_channels_and_lists_of_their_own_lengths() -> None:
    extractor = EncodecFeatureExtractor(feature_size=2)
    features = extractor(np.stack([SOUND, -SOUND]), sampling_rate=24_000, padding=False)
    assert features["input_values"][0].shape == (2, 100)
    assert "padding_mask" not in features


def test_truncation_cuts() -> None:
    features = EncodecFeatureExtractor()(SOUND, truncation=True, max_length=40, **RATE)
    assert features.input_values.shape == (1, 1, 40)


def test_moving_leaves_masks_as_they_are() -> None:
    features = EncodecFeatureExtractor()(SOUND, **RATE).to(device="cpu", dtype=torch.bfloat16)
    assert features.input_values.dtype == torch.bfloat16
    assert features.padding_mask.dtype == torch.int32


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    extractor = EncodecFeatureExtractor(sampling_rate=16_000)
    extractor.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path) == extractor


def test_it_follows_from_the_codec_where_it_has_no_file(hf_moshi: Path) -> None:
    assert AutoFeatureExtractor.from_pretrained(hf_moshi).sampling_rate == 1200
    assert AutoFeatureExtractor.from_pretrained("tiny").sampling_rate == 24_000


@pytest.mark.parametrize(
    ("raw", "arguments", "error", "named"),
    [
        (SOUND, {"sampling_rate": 16_000}, AudioError, "sampling_rate=16000"),
        (np.zeros((2, 9)), {}, AudioError, "one channel"),
        (np.zeros(0), {}, AudioError, r"\[0\]"),
        ([], {}, AudioError, "empty"),
        (SOUND, {"padding": True, "truncation": True}, ConfigError, "together"),
        (SOUND, {"padding": "max_length"}, ConfigError, "max_length"),
        (SOUND, {"padding": "max_length", "max_length": 5}, ConfigError, "100 samples"),
        (SOUND, {"return_tensors": "tf"}, ConfigError, "'tf'"),
        ([SOUND, SOUND[:3]], {"padding": False, "return_tensors": "pt"}, ConfigError, "several lengths"),
    ],
)
def test_what_cannot_be_features_is_refused(raw: Any, arguments: Any, error: type, named: str) -> None:
    with pytest.raises(error, match=named):
        EncodecFeatureExtractor()(raw, **arguments)
