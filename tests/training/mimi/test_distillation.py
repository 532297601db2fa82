"""Distillation: which features belong to which frame, where they come from, and what is learnt from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from moshi_agent import ConfigError, DataError
from moshi_agent.training.mimi.audio_data import AudioFile, Batch, Place
from moshi_agent.training.mimi.distillation import Distillation, Targets, pool_features
from moshi_agent.training.mimi.teacher import FunctionTeacher, TeacherConfig, open_teacher


def test_fifty_features_a_second_are_averaged_eight_every_four() -> None:
    """As the paper pools WavLM's, centred on the frame."""
    features = torch.arange(40.0)[:, None]
    pooled = pool_features(features, 50.0, 12.5, 5, start_s=0.0)
    # Frame t is the mean of features 4 t - 2 to 4 t + 5; before the first there is nothing.
    assert pooled.features[0, :, 0].tolist() == pytest.approx([2.5, 5.5, 9.5, 13.5, 17.5])
    assert bool(pooled.valid.all())


def test_a_piece_from_the_middle_has_the_features_of_its_place() -> None:
    features = torch.arange(200.0)[:, None]
    whole = pool_features(features, 50.0, 12.5, 40, 0.0)
    piece = pool_features(features, 50.0, 12.5, 5, start_s=10 * 0.08)
    assert torch.allclose(piece.features, whole.features[:, 10:15])


def test_frames_after_the_end_are_not_valid() -> None:
    pooled = pool_features(torch.ones(20, 2), 50.0, 12.5, 8, 0.0)
    assert pooled.valid[0].tolist() == [True] * 5 + [False] * 3
    assert pooled.features.shape == (1, 8, 2)


def test_a_teacher_slower_than_the_codec_gives_what_is_nearest() -> None:
    pooled = pool_features(torch.arange(4.0)[:, None], 2.0, 12.5, 12, 0.0)
    assert pooled.features[0, :6, 0].tolist() == [0] * 6
    assert float(pooled.features[0, 11, 0]) == 1


def test_the_loss_is_a_cosine_distance_over_valid_frames() -> None:
    head = Distillation(2, 2)
    with torch.no_grad():
        head.projection.weight.copy_(torch.eye(2))
        head.projection.bias.zero_()
    semantic = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]])
    features = torch.tensor([[[5.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
    assert head(semantic, Targets(features, torch.tensor([[True, True, True]]))).item() == pytest.approx(1.0)
    assert head(semantic, Targets(features, torch.tensor([[True, False, False]]))).item() == 0
    assert head(semantic, Targets(features, torch.zeros(1, 3, dtype=torch.bool))).item() == 0


def batch(*paths: Path) -> Batch:
    return Batch(torch.zeros(len(paths), 1920 * 4), [Place(path, 0.0) for path in paths])


def test_features_are_read_from_files_beside_the_recordings(tmp_path: Path) -> None:
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    files = [AudioFile(path, 1.0) for path in paths]
    for index, path in enumerate(paths):
        save_file({"features": torch.full((50, 3), float(index))}, path.with_suffix(".safetensors"))
        np.save(path.with_suffix(".npy"), np.full((50, 3), index, np.float16))
    for suffix in (".safetensors", ".npy"):
        teacher = open_teacher(TeacherConfig(suffix=suffix), files, 24_000, 12.5)
        targets = teacher.targets(batch(*paths), 4)
        assert teacher.dim == 3
        assert targets.features.shape == (2, 4, 3)
        assert targets.features[:, 0, 0].tolist() == [0, 1]


def test_files_without_features_are_named(tmp_path: Path) -> None:
    files = [AudioFile(tmp_path / "a.wav", 1.0)]
    with pytest.raises(DataError, match=r"1 of 1 recordings .*a\.safetensors is missing"):
        open_teacher(TeacherConfig(), files, 24_000, 12.5)
    (tmp_path / "a.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"a\.safetensors cannot be read as features"):
        open_teacher(TeacherConfig(), files, 24_000, 12.5)
    np.save(tmp_path / "a.npy", np.zeros(5))
    with pytest.raises(DataError, match=r"shape \[5\]"):
        open_teacher(TeacherConfig(suffix=".npy"), files, 24_000, 12.5)
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.npy cannot be read as features"):
        open_teacher(TeacherConfig(suffix=".npy"), files, 24_000, 12.5)


def levels(audio: Tensor, sample_rate_hz: int) -> Tensor:
    """A teacher: the level of every 20 ms, and the rate."""
    level = audio.abs().unfold(1, sample_rate_hz // 50, sample_rate_hz // 50).mean(2)
    return torch.stack([level, torch.full_like(level, sample_rate_hz)], dim=2)


def test_a_function_hears_the_piece_at_its_own_rate() -> None:
    name = f"{__name__}:levels"
    teacher = FunctionTeacher(TeacherConfig(function=name), levels, 24_000, 12.5)
    audio = torch.zeros(1, 1920 * 4)
    audio[:, 1920 * 2 :] = 0.5
    targets = teacher.targets(Batch(audio, [Place(Path("a.wav"), 3.0)]), 4)
    assert teacher.dim == 2
    assert targets.features[0, :, 1].tolist() == [16_000] * 4
    assert targets.features[0, 0, 0] < 0.01 < 0.1 < targets.features[0, 3, 0]


def test_a_function_that_is_none_is_named() -> None:
    for name in ("no_such_module:f", "math:nothing", "math", "math:pi"):
        with pytest.raises(ConfigError, match=name):
            open_teacher(TeacherConfig(function=name), [], 24_000, 12.5)


def test_a_function_of_another_shape_is_an_error() -> None:
    with pytest.raises(DataError, match=r"gave \[1, 24000\]|gave \[1, 16000\]"):
        FunctionTeacher(TeacherConfig(function="a:b"), lambda audio, rate_hz: audio, 24_000, 12.5)
