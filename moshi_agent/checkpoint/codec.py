"""The codec of a checkpoint, without its language model, and a codec written by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from moshi_agent.checkpoint.kyutai.files import MIMI_NAME as PUBLISHED_NAME
from moshi_agent.checkpoint.kyutai.mimi_config import read_mimi_config, write_mimi_config
from moshi_agent.checkpoint.kyutai.save import MIMI_CONFIG_NAME, MIMI_NAME, mimi_tensors
from moshi_agent.checkpoint.models import build_mimi
from moshi_agent.checkpoint.sources import Source, open_source, resolve
from moshi_agent.checkpoint.tensors import read_json
from moshi_agent.checkpoint.transformers.config import is_transformers_config
from moshi_agent.checkpoint.transformers.files import build_transformers, locate_transformers
from moshi_agent.checkpoint.write import make_folder, write_json, write_tensors
from moshi_agent.config import MimiConfig
from moshi_agent.errors import ConfigError
from moshi_agent.models.mimi import MimiModel


def load_codec(
    source: str | os.PathLike[str], device: str = "cpu", revision: str | None = None, token: str | None = None
) -> MimiModel:
    """The codec, with all its codebooks in use; of a language model beside it nothing is fetched or read.

    Args:
        source: as `load_checkpoint` takes it, or a folder that `save_codec` wrote.

    Raises:
        CheckpointError: a file that is missing, cannot be fetched, is damaged, or does not fit.
        ConfigError: a configuration that no codec can be built from.
    """
    place = open_source(source, revision, token)
    path = place.find("config.json")
    config = {} if path is None else read_json(path)
    if path is not None and is_transformers_config(config):
        files = locate_transformers(place, path, config)
        return build_transformers(files, device, torch.float32)[0]
    return _kyutai_codec(place, config, device, token)


def _kyutai_codec(place: Source, config: dict[str, Any], device: str, token: str | None) -> MimiModel:
    has_own_name = "mimi_name" not in config and place.find(MIMI_NAME) is not None
    weights = config.get("mimi_name") or (MIMI_NAME if has_own_name else PUBLISHED_NAME)
    described = config.get("mimi_config_name") or (MIMI_CONFIG_NAME if has_own_name else None)
    values = None if described is None else read_json(resolve(str(described), place, token))
    return build_mimi(read_codec_config(values, place.name), resolve(str(weights), place, token), device)


def new_codec(config: Path) -> MimiModel:
    """A codec with fresh weights, as a `mimi_config.json` describes it.

    Raises:
        CheckpointError: the file is missing, or no JSON file.
        ConfigError: no codec can be built from it.
    """
    return MimiModel(read_codec_config(read_json(config), str(config)))


def read_codec_config(values: dict[str, Any] | None, where: str) -> MimiConfig:
    """The configuration in `values`; None is the published codec. Raises ConfigError naming `where`."""
    try:
        return read_mimi_config(values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (TypeError, KeyError, ValueError) as error:  # a number where a list is needed, and the like
        raise ConfigError(f"{where}: a value of the wrong kind ({error})") from error


def save_codec(folder: Path, codec: MimiModel, dtype: torch.dtype = torch.float32) -> None:
    """Writes `mimi.safetensors` and `mimi_config.json` in Kyutai's format, as `loaders.get_mimi` reads them.

    Args:
        dtype: of the weights on disk. Codebooks stay float32.

    Raises:
        CheckpointError: a codec that is packed.
        OutputError: a file cannot be written.
    """
    tensors = mimi_tensors(codec, dtype)
    make_folder(folder)
    write_tensors(folder / MIMI_NAME, tensors)
    write_json(folder / MIMI_CONFIG_NAME, write_mimi_config(codec.config))
