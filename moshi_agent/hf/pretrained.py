"""What the models of `moshi_agent.hf` share with Transformers' `PreTrainedModel`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from moshi_agent.checkpoint.format import DEFAULT_SHARD_SIZE, CheckpointFiles, Origin
from moshi_agent.checkpoint.formats import format_of
from moshi_agent.checkpoint.kyutai.save import refuse_packed
from moshi_agent.checkpoint.sources import open_source
from moshi_agent.checkpoint.transformers.save import write_weights
from moshi_agent.errors import ConfigError
from moshi_agent.hf.config_base import PretrainedConfig
from moshi_agent.hf.generation_config import GenerationConfig
from moshi_agent.hf.sources import config_values, generation_values

Source = str | os.PathLike[str]


class PreTrainedModel(nn.Module, ABC):
    """Reads and writes a model with its configuration in the format of Transformers.

    Attention weights are never computed apart: `output_attentions=True` is refused.
    """

    config_class: ClassVar[type[PretrainedConfig]]
    can_generate: ClassVar[bool] = False
    generation_config: GenerationConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Source,
        *,
        config: PretrainedConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | None = None,
        revision: str | None = None,
        token: str | None = None,
        **overrides: Any,
    ) -> Self:
        """Loads a checkpoint's model, of Transformers' format or Kyutai's, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder, a repository or `tiny`, as `load_checkpoint` takes it.
            config: instead of the checkpoint's own; sizes have to be those of the weights.
            dtype: of the language model, float32 by default; `auto` is what the checkpoint says. The codec
                always computes in float32. `torch_dtype` is an older name of it.
            device_map: one device, or `auto` for the first there is.
            overrides: values of the configuration to be changed.

        Raises:
            CheckpointError, ConfigError: as for `load_checkpoint`.
        """
        origin = Origin.of(open_source(pretrained_model_name_or_path, revision, token), token)
        files = format_of(origin).locate(origin)
        values = config_values(origin, files)
        if config is None:
            config = cls.config_class.of_model(values, **overrides)
        model = cls.read(config, files, _dtype(dtype or torch_dtype, values))
        if cls.can_generate:
            model.generation_config = GenerationConfig.from_dict(generation_values(origin, files))
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return model.to(_device(device_map)).eval()

    @classmethod
    @abstractmethod
    def read(cls, config: PretrainedConfig, files: CheckpointFiles, dtype: torch.dtype) -> Self:
        """The model with this configuration and the weights of these files, on the CPU."""

    @abstractmethod
    def theirs(self) -> dict[str, Tensor]:
        """Every tensor by its name in the format of Transformers."""

    def save_pretrained(
        self,
        save_directory: Source,
        *,
        max_shard_size: int | str = DEFAULT_SHARD_SIZE,
        safe_serialization: bool = True,
    ) -> None:
        """Writes `config.json`, the weights, and the generation settings where there are any.

        Args:
            max_shard_size: of one weight file, in bytes or like "5GB".
            safe_serialization: only True: weights are written as safetensors.

        Raises:
            CheckpointError: a packed model.
            ConfigError: a size that is none, or `safe_serialization=False`.
            OutputError: a file cannot be written.
        """
        if not safe_serialization:
            raise ConfigError("safe_serialization=False; accepted: True, weights are written as safetensors")
        refuse_packed(self)
        folder = Path(save_directory)
        write_weights(folder, self.theirs(), max_shard_size)
        self.config.architectures = [type(self).__name__]
        self.config.dtype = str(self.dtype).removeprefix("torch.")
        self.config.save_pretrained(folder)
        if self.can_generate:
            self.generation_config.save_pretrained(folder)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Returns the type of the weights."""
        return next(self.parameters()).dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Counts the numbers in the weights."""
        return sum(one.numel() for one in self.parameters() if one.requires_grad or not only_trainable)

    def wants_dict(self, return_dict: bool | None) -> bool:
        """Whether a call returns an output rather than a tuple."""
        return self.config.return_dict if return_dict is None else return_dict


def _dtype(wanted: torch.dtype | str | None, values: Mapping[str, Any]) -> torch.dtype:
    if wanted == "auto":
        wanted = cast("str | None", values.get("dtype") or values.get("torch_dtype"))
    if wanted is None or isinstance(wanted, torch.dtype):
        return wanted or torch.float32
    dtype = getattr(torch, wanted.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"dtype={wanted!r}; accepted: auto, float32, bfloat16, float16")
    return dtype


def _device(device_map: str | torch.device | Mapping[str, Any] | None) -> torch.device | str:
    if device_map == "auto":
        return infer_device()
    if device_map is None or isinstance(device_map, str | torch.device):
        return device_map or "cpu"
    raise ConfigError(f"device_map={device_map!r}; accepted: one device, or auto")


def infer_device() -> str:
    """Returns the first accelerator that PyTorch can use here, or `cpu`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
