"""What the configurations of `moshi_agent.hf` share with Transformers' `PretrainedConfig`."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import torch

from moshi_agent.errors import ConfigError
from moshi_agent.hf.sources import read_config
from moshi_agent.outputs import naming, whole_file

CONFIG_NAME = "config.json"

C = TypeVar("C", bound=type)


@dataclass_transform()
def open_config(cls: C) -> C:
    """A dataclass whose constructor keeps keywords that it has no field for as attributes.

    Published `config.json` files hold many keys that say nothing about the model.
    """
    cls = dataclasses.dataclass(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    make = cls.__init__

    @functools.wraps(make)
    def init(self: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        kwargs = {self.renamed.get(key, key): value for key, value in kwargs.items()}
        more = {key: kwargs.pop(key) for key in list(kwargs) if key not in known}
        more.pop("model_type", None)
        for key, value in (self.base_values() | more).items():
            if isinstance(getattr(cls, key, None), property):
                raise ConfigError(f"{key}={value!r} cannot be given: it follows from other values")
            setattr(self, key, value)
        make(self, *args, **kwargs)

    setattr(cls, "__init__", init)  # noqa: B010 (a type checker does not let a method be assigned)
    return cls


class PretrainedConfig:
    """Reads and writes a configuration as a `config.json` of Transformers."""

    model_type: ClassVar[str] = ""
    nested_as: ClassVar[str] = ""  # the key of this configuration in that of a whole model
    renamed: ClassVar[Mapping[str, str]] = {"torch_dtype": "dtype"}

    # What every configuration has beside its own fields; written only where it is not the default.
    return_dict: bool
    output_hidden_states: bool
    output_attentions: bool
    architectures: list[str] | None
    dtype: str | torch.dtype | None

    def __init__(self, **kwargs: Any) -> None:
        raise AssertionError("`open_config` makes the constructor")

    @staticmethod
    def base_values() -> dict[str, Any]:
        """Returns the attributes that every configuration has, and their defaults."""
        return {
            "return_dict": True,
            "output_hidden_states": False,
            "output_attentions": False,
            "architectures": None,
            "dtype": None,
        }

    @property
    def use_return_dict(self) -> bool:
        return self.return_dict

    def to_dict(self) -> dict[str, Any]:
        """Returns every field and further attribute, nested configurations as dictionaries."""
        base = self.base_values()
        values: dict[str, Any] = {"model_type": self.model_type} if self.model_type else {}
        for key, value in vars(self).items():
            if key not in base or value != base[key]:
                values[key] = _plain(value)
        return values

    def to_json_string(self) -> str:
        """Returns what `save_pretrained` writes."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Makes a configuration of a dictionary as `to_dict` gives it; `overrides` go before."""
        return cls(**copy.deepcopy(dict(values)) | overrides)

    @classmethod
    def of_model(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Reads the configuration in a `config.json`: the whole, or the part of this kind.

        Raises:
            ConfigError: a file of another kind.
        """
        values = values.get(cls.nested_as) or values
        kind = values.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ConfigError(f"config.json: model_type {kind!r}; accepted here: {cls.model_type!r}")
        return cls.from_dict(values, **overrides)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        **overrides: Any,
    ) -> Self:
        """Reads the configuration of a checkpoint, in Kyutai's format or that of Transformers.

        Args:
            pretrained_model_name_or_path: a folder, a repository or `tiny`, as `load_checkpoint` takes it.

        Raises:
            CheckpointError, ConfigError: see `moshi_agent.errors`.
        """
        return cls.of_model(read_config(pretrained_model_name_or_path, revision, token), **overrides)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Writes `config.json`. Raises OutputError where it cannot."""
        folder = Path(save_directory)
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / CONFIG_NAME
        with whole_file(path) as part, naming(path):
            part.write_text(self.to_json_string())


def _plain(value: object) -> object:
    if isinstance(value, PretrainedConfig):
        return value.to_dict()
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return copy.deepcopy(value)
