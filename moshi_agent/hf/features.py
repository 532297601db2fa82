"""The feature extractor of Mimi: raw audio as a padded batch, with a mask of what is audio."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from moshi_agent.checkpoint.sources import open_source
from moshi_agent.checkpoint.tensors import read_json
from moshi_agent.checkpoint.transformers.config import read_mimi_config
from moshi_agent.checkpoint.transformers.write_config import FEATURES_NAME, feature_extractor_values
from moshi_agent.checkpoint.write import make_folder, write_json
from moshi_agent.errors import AudioError, ConfigError
from moshi_agent.hf.mimi_config import MimiConfig

Audio = NDArray[Any] | torch.Tensor | Sequence[Any]


class BatchFeature(dict[str, Any]):
    """Holds values as keys and as attributes; its tensors move together."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves every tensor, and gives those that are floating this type. Changes this object."""
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for key, value in self.items():
            if isinstance(value, torch.Tensor):
                self[key] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return self


@dataclass
class EncodecFeatureExtractor:
    """Turns audio at `sampling_rate` into `input_values` and `padding_mask`.

    Raises:
        ConfigError: more than two channels.
    """

    model_input_names: ClassVar[list[str]] = ["input_values", "padding_mask"]

    feature_size: int = 1  # channels: 1 or 2
    sampling_rate: int = 24_000
    padding_value: float = 0.0
    padding_side: str = "right"

    def __post_init__(self) -> None:
        if self.feature_size not in (1, 2):
            raise ConfigError(f"feature_size={self.feature_size}; accepted: 1, 2")

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **overrides: Any) -> Self:
        """Reads what a checkpoint says, or takes what follows from its codec.

        Raises:
            CheckpointError, ConfigError: as for `load_checkpoint`.
        """
        path = open_source(source).find(FEATURES_NAME)
        if path is None:
            values = feature_extractor_values(read_mimi_config(MimiConfig.from_pretrained(source).to_dict()))
        else:
            values = read_json(path)
        values = values | overrides
        if values.get("chunk_length_s") is not None:
            raise ConfigError("chunk_length_s is not supported; accepted: none, audio is encoded as a whole")
        return cls(**{key: values[key] for key in cls.__dataclass_fields__ if key in values})

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes `preprocessor_config.json`. Raises OutputError where it cannot."""
        values = {"feature_extractor_type": "EncodecFeatureExtractor", "return_attention_mask": True}
        make_folder(Path(save_directory))
        write_json(Path(save_directory) / FEATURES_NAME, values | vars(self), sort_keys=True)

    def __call__(
        self,
        raw_audio: Audio,
        padding: bool | str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """One sound or a list of them, each [samples], or [2, samples] where there are two channels.

        Args:
            padding: True or "longest" (the default), "max_length", or False for sounds of their own lengths.
            truncation: cuts what is longer than `max_length` samples; not together with padding.
            return_tensors: "pt" or "np"; None returns lists of arrays.
            sampling_rate: of the sound, to be checked.

        Returns:
            `input_values` [B, channels, samples] float32 and, with padding, `padding_mask` [B, samples]
            int32.

        Raises:
            AudioError: another rate, another shape, or an empty sound.
            ConfigError: arguments that do not go together.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise AudioError(
                f"sampling_rate={sampling_rate}; accepted: {self.sampling_rate}, resample before"
            )
        if truncation and padding:
            raise ConfigError("padding and truncation together; accepted: one of them")
        padding = (not truncation) if padding is None else padding
        sounds = [self._checked(sound) for sound in _as_batch(raw_audio)]
        length = _length(sounds, padding, max_length)
        if truncation and max_length is not None:
            sounds = [sound[:, :max_length] for sound in sounds]
        masks: list[NDArray[Any]] = []
        if length is not None:
            masks = [self._padded(np.ones((1, sound.shape[1]), np.int32), length, 0)[0] for sound in sounds]
            sounds = [self._padded(sound, length, self.padding_value) for sound in sounds]
        features = {"input_values": sounds} | ({"padding_mask": masks} if length is not None else {})
        return BatchFeature({key: _as_tensors(parts, return_tensors) for key, parts in features.items()})

    def _checked(self, sound: Any) -> NDArray[np.float32]:
        """[channels, samples]."""
        array = np.atleast_2d(np.asarray(sound, dtype=np.float32))
        if array.ndim != 2 or array.shape[0] != self.feature_size or not array.shape[1]:
            raise AudioError(
                f"a sound of shape {list(np.shape(sound))}; accepted: [samples] with one channel, "
                f"[{self.feature_size}, samples] with more"
            )
        return array

    def _padded(self, array: NDArray[Any], length: int, value: float) -> NDArray[Any]:
        """[channels, samples] -> [channels, length]."""
        missing = length - array.shape[1]
        if missing < 0:
            raise ConfigError(f"a sound of {array.shape[1]} samples; max_length={length}")
        side = (missing, 0) if self.padding_side == "left" else (0, missing)
        return np.pad(array, ((0, 0), side), constant_values=value)


# The name of the codec's own: what Transformers calls it after, EnCodec, has the same.
MimiFeatureExtractor = EncodecFeatureExtractor


class AutoFeatureExtractor:
    """Finds the feature extractor of a checkpoint."""

    @staticmethod
    def from_pretrained(source: str | os.PathLike[str], **overrides: Any) -> EncodecFeatureExtractor:
        """Makes an extractor as `EncodecFeatureExtractor.from_pretrained` does."""
        return EncodecFeatureExtractor.from_pretrained(source, **overrides)


def _as_batch(raw_audio: Audio) -> list[Any]:
    """One sound is an array, a tensor, or a list of numbers; several are a list of such."""
    if isinstance(raw_audio, np.ndarray | torch.Tensor):
        return [raw_audio]
    sounds = list(raw_audio)
    if not sounds:
        raise AudioError("raw_audio is empty")
    return [sounds] if np.ndim(sounds[0]) == 0 else sounds


def _length(sounds: list[NDArray[np.float32]], padding: bool | str, max_length: int | None) -> int | None:
    """Samples to pad to; None for no padding."""
    if padding in (False, "do_not_pad"):
        return None
    if padding in (True, "longest"):
        return max(sound.shape[1] for sound in sounds)
    if padding == "max_length" and max_length is not None:
        return max_length
    raise ConfigError(
        f"padding={padding!r}, max_length={max_length}; accepted: True, False, longest, do_not_pad, "
        "and max_length with a max_length"
    )


def _as_tensors(parts: list[NDArray[Any]], return_tensors: str | None) -> Any:
    if return_tensors is None:
        return parts
    if return_tensors not in ("pt", "np"):
        raise ConfigError(f"return_tensors={return_tensors!r}; accepted: pt, np")
    if len({part.shape for part in parts}) > 1:
        raise ConfigError("sounds of several lengths make no tensor; accepted: padding=True")
    stacked = np.stack(parts)
    return torch.from_numpy(stacked) if return_tensors == "pt" else stacked
