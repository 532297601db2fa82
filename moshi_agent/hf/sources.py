"""Checkpoints in either format, as the classes of `moshi_agent.hf` read them."""

from __future__ import annotations

import os
from typing import Any

from moshi_agent.checkpoint.convert import GENERATION_CONFIG_NAME
from moshi_agent.checkpoint.kyutai.files import KyutaiFiles
from moshi_agent.checkpoint.load import locate
from moshi_agent.checkpoint.sources import Source, open_source
from moshi_agent.checkpoint.tensors import read_json
from moshi_agent.checkpoint.transformers.config import is_transformers_config
from moshi_agent.checkpoint.transformers.files import TransformersFiles
from moshi_agent.checkpoint.transformers.write_config import write_generation_config, write_moshi_config

Files = KyutaiFiles | TransformersFiles

# How LMGen chooses unless it is told.
_SETTINGS: dict[str, Any] = {
    "temp": 0.8,
    "temp_text": 0.7,
    "top_k": 250,
    "top_k_text": 25,
    "use_sampling": True,
}


def config_values(files: Files) -> dict[str, Any]:
    """The `config.json` of Transformers that goes with these files, made where they are Kyutai's.

    Raises:
        ConfigError: a model of Kyutai's that the format of Transformers cannot hold.
    """
    if isinstance(files, TransformersFiles):
        return files.raw_config
    return write_moshi_config(files.read_lm_config(), files.read_mimi_config())


def read_config(source: str | os.PathLike[str], revision: str | None, token: str | None) -> dict[str, Any]:
    """The same of a checkpoint by its name; a folder with nothing but a `config.json` is enough.

    Raises:
        CheckpointError, ConfigError: as for `load_checkpoint`.
    """
    place = open_source(source, revision, token)
    path = place.find("config.json")
    if path is not None and is_transformers_config(values := read_json(path)):
        return values
    return config_values(locate(place, token))


def generation_values(place: Source, files: Files) -> dict[str, Any]:
    """The `generation_config.json` that goes with these files; Kyutai's models sample by default."""
    if isinstance(files, TransformersFiles):
        path = place.find(GENERATION_CONFIG_NAME)
        return {} if path is None else read_json(path)
    settings = {key: files.lm_gen_config[key] for key in _SETTINGS if key in files.lm_gen_config}
    return write_generation_config(_SETTINGS | settings, files.read_lm_config().dep_q)
