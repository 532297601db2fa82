"""Where a teacher's features come from: files beside the recordings, or a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import soxr
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moshi_agent.errors import ConfigError, DataError
from moshi_agent.named_object import find_named
from moshi_agent.training.mimi.audio_data import AudioFile, Batch, Place
from moshi_agent.training.mimi.distillation import Targets, pool_features
from moshi_agent.training.runs.settings import require_range

# function(audio [B, T] float32, sample_rate_hz) -> features [B, N, dim]
FeatureFunction = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Says what the semantic codebook learns from, where the distillation has a weight."""

    suffix: str = ".safetensors"  # of the files with features, beside the recordings: or ".npy"
    function: str | None = None  # used instead of files: "module:function", see `FeatureFunction`
    feature_rate_hz: float = 50.0  # features a second
    sample_rate_hz: int = 16_000  # of the audio that the function hears

    def __post_init__(self) -> None:
        if self.suffix not in (".safetensors", ".npy"):
            raise ConfigError(f"[teacher] suffix={self.suffix!r}; accepted: .safetensors, .npy")
        require_range("[teacher] feature_rate_hz", self.feature_rate_hz, 0.1, 10_000)
        require_range("[teacher] sample_rate_hz", self.sample_rate_hz, 1000, 192_000)


class Teacher(Protocol):
    """Says what the semantic codes should tell."""

    @property
    def dim(self) -> int:
        """Tells how many numbers a feature has."""
        ...

    def targets(self, batch: Batch, frames: int) -> Targets:
        """Gives targets for each piece of the batch, of so many frames. Raises DataError where it cannot."""
        ...


def open_teacher(
    config: TeacherConfig, files: Sequence[AudioFile], sample_rate_hz: int, frame_rate_hz: float
) -> Teacher:
    """Opens the teacher of a training with these recordings, by a codec of these rates.

    Raises:
        ConfigError: there is no such function.
        DataError: recordings without features.
    """
    if config.function is None:
        return FileTeacher(config, [file.path for file in files], frame_rate_hz)
    return FunctionTeacher(config, _imported(config.function), sample_rate_hz, frame_rate_hz)


class FileTeacher:
    """Reads features [N, dim] from a file beside each recording: `a.safetensors` or `a.npy` of `a.wav`.

    Of a safetensors file, the tensor `features` is read, or the only one.
    """

    def __init__(self, config: TeacherConfig, paths: Sequence[Path], frame_rate_hz: float) -> None:
        self._config = config
        self._frame_rate_hz = frame_rate_hz
        missing = [path for path in paths if not self._beside(path).is_file()]
        if missing:
            named = ", ".join(str(self._beside(path)) for path in missing[:5])
            raise DataError(f"{len(missing)} of {len(paths)} recordings have no features: {named} is missing")
        self.dim = self._read(paths[0]).shape[1]

    def targets(self, batch: Batch, frames: int) -> Targets:
        """See `Teacher.targets`."""
        rows = [self._row(place, frames) for place in batch.places]
        return Targets(torch.cat([row.features for row in rows]), torch.cat([row.valid for row in rows]))

    def _row(self, place: Place, frames: int) -> Targets:
        features = self._read(place.path)
        if features.shape[1] != self.dim:
            path = self._beside(place.path)
            raise DataError(f"{path} has features of {features.shape[1]} values; those before had {self.dim}")
        rate_hz = self._config.feature_rate_hz
        return pool_features(features, rate_hz, self._frame_rate_hz, frames, place.start_s)

    def _beside(self, path: Path) -> Path:
        return path.with_suffix(self._config.suffix)

    def _read(self, recording: Path) -> Tensor:
        """[N, dim], the whole file."""
        path = self._beside(recording)
        try:
            features = _from_numpy(path) if path.suffix == ".npy" else _from_safetensors(path)
        except (OSError, EOFError, ValueError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read as features: {error}") from error
        if features.dim() != 2 or not features.numel():
            raise DataError(f"{path} holds features of shape {list(features.shape)}; needed is [frames, dim]")
        return features


class FunctionTeacher:
    """Computes features by a function, of each piece by itself."""

    def __init__(
        self, config: TeacherConfig, function: FeatureFunction, sample_rate_hz: int, frame_rate_hz: float
    ) -> None:
        self._config = config
        self._function = function
        self._sample_rate_hz = sample_rate_hz
        self._frame_rate_hz = frame_rate_hz
        self.dim = self._features(torch.zeros(1, sample_rate_hz)).shape[2]

    def targets(self, batch: Batch, frames: int) -> Targets:
        """See `Teacher.targets`."""
        features = self._features(batch.audio)
        rate_hz = self._config.feature_rate_hz
        rows = [pool_features(row, rate_hz, self._frame_rate_hz, frames, 0.0) for row in features]
        return Targets(torch.cat([row.features for row in rows]), torch.cat([row.valid for row in rows]))

    @torch.no_grad()
    def _features(self, audio: Tensor) -> Tensor:
        """[B, T] -> [B, N, dim]."""
        theirs_hz, name = self._config.sample_rate_hz, self._config.function
        heard = soxr.resample(audio.numpy().T, self._sample_rate_hz, theirs_hz).T
        function = cast("Callable[[Tensor, int], object]", self._function)  # what it gives is to be seen
        features = function(torch.from_numpy(np.ascontiguousarray(heard)), theirs_hz)
        if not isinstance(features, Tensor) or features.dim() != 3 or len(features) != len(audio):
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise DataError(f"{name} gave {shape} for {len(audio)} pieces; needed is [B, frames, dim]")
        return features.float().cpu()


def _imported(name: str) -> FeatureFunction:
    found = find_named(name, "[teacher] function =")
    if not callable(found):
        raise ConfigError(f"[teacher] function={name!r} is no function")
    return cast(FeatureFunction, found)


def _from_numpy(path: Path) -> Tensor:
    return torch.from_numpy(np.asarray(np.load(path), dtype=np.float32))


def _from_safetensors(path: Path) -> Tensor:
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if "features" not in names and len(names) != 1:
            raise ValueError(f"it has the tensors {', '.join(names)}; needed is one, or `features`")
        return cast(Tensor, file.get_tensor("features" if "features" in names else names[0])).float()
